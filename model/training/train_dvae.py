"""The job that trains DALL-E's discrete VAE on images, in one process or in several that torchrun started."""

from contextlib import closing

import torch

from model.shapes import make_shape
from model.tokenizers.dvae import DVAE, DVAEShape
from model.training.dvae_config import TrainDVAEConfig
from model.training.dvae_trainee import DVAETrainee
from model.training.image_job import begin_job, refuse_unfit
from model.training.joint_beginning import begin_on_ranks
from model.training.loop import train
from model.training.ranks import join_ranks
from model.training.tokenizer_images import open_images
from model.training.tokenizer_job import finish_tokenizer
from parti_data.manifest import Manifest, StageDirectory, read_manifest

__all__ = ["TrainDVAEConfig", "train_dvae"]


def train_dvae(config: TrainDVAEConfig) -> Manifest:
    """Train, measure and write a tokenizer; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        shape = make_shape(DVAEShape, dict(config.architecture))
        refuse_unfit(config, ranks)
        torch.manual_seed(config.seed)
        network = DVAE(shape)
        begun = begin_on_ranks(ranks, config.output, lambda: begin_job("train_dvae", config, {}))
        if isinstance(begun, Manifest):
            return begun
        images = open_images(config, shape.image_side, ranks)
        trainee = DVAETrainee(config, network, images, ranks)
        with closing(images.pictures):
            train(trainee, config.schedule, config.output, "train dvae", config.running, ranks)
        if isinstance(begun, StageDirectory):
            finish_tokenizer(begun, config, trainee.trained, images, ranks.device, {})
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)
