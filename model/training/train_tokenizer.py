"""The job that trains a ViT-VQGAN on images, in one process or in several that torchrun started."""

from contextlib import closing

import torch

from model.shapes import make_shape
from model.tokenizers.own_file import read_own_tokenizer
from model.tokenizers.vit_vqgan import ViTVQGAN, ViTVQGANShape, with_new_decoder
from model.training.image_job import (
    begin_job,
    critics_digests,
    open_perceptual,
    refuse_unfit,
    refuse_unfit_critics,
    tell_missing_perceptual,
)
from model.training.joint_beginning import begin_on_ranks
from model.training.loop import train
from model.training.ranks import join_ranks
from model.training.tokenizer_config import CodebookCare, TrainTokenizerConfig
from model.training.tokenizer_images import open_images
from model.training.tokenizer_job import finish_tokenizer
from model.training.tokenizer_trainee import TokenizerTrainee
from parti_data.errors import ConfigError
from parti_data.manifest import Manifest, StageDirectory, read_manifest
from parti_data.progress import print_line
from parti_data.storage import is_file, sha256_file

__all__ = ["CodebookCare", "TrainTokenizerConfig", "train_tokenizer"]

_NEVER_QUANTIZED = (
    "train tokenizer: codebook.continuous_steps={continuous} leaves none of the {steps} steps for quantizing: the "
    "codebook stays as it began"
)


def train_tokenizer(config: TrainTokenizerConfig) -> Manifest:
    """Train, measure and write a tokenizer; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        shape = make_shape(ViTVQGANShape, dict(config.architecture))
        refuse_unfit(config, ranks)
        refuse_unfit_critics(config, shape.image_side)
        if ranks.is_first:
            _tell_never_quantized(config)
        perceptual = open_perceptual(config)
        torch.manual_seed(config.seed)
        network = make_network(config, shape)
        network.recompute_blocks = config.recompute_blocks
        begun = begin_on_ranks(ranks, config.output, lambda: _begin(config))
        if isinstance(begun, Manifest):
            return begun
        if ranks.is_first:
            tell_missing_perceptual(config, config.loss_weights.perceptual, "train tokenizer")
        images = open_images(config, shape.image_side, ranks)
        trainee = TokenizerTrainee(config, network, images, ranks, perceptual)
        with closing(images.pictures):
            train(trainee, config.schedule, config.output, "train tokenizer", config.running, ranks)
        if isinstance(begun, StageDirectory):
            told = {"perceptual": bool(config.vgg16)}
            finish_tokenizer(begun, config, trainee.trained, images, ranks.device, told)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _tell_never_quantized(config: TrainTokenizerConfig) -> None:
    care, num_steps = config.codebook, config.schedule.num_steps
    if config.train == "all" and care.continuous_steps >= num_steps:
        print_line(_NEVER_QUANTIZED.format(continuous=care.continuous_steps, steps=num_steps))


def _begin(config: TrainTokenizerConfig) -> StageDirectory | Manifest:
    start = {"start_from": sha256_file(config.start_from)} if config.start_from else {}
    return begin_job("train_tokenizer", config, start | critics_digests(config))


def make_network(config: TrainTokenizerConfig, shape: ViTVQGANShape) -> ViTVQGAN:
    """Return the network to begin with: new, or with the encoder and codebook of another; raises ConfigError."""
    if not config.start_from:
        if config.train == "decoder":
            raise ConfigError(
                "start_from: expected the tokenizer whose decoder is trained, found none; give the file that it was "
                "saved in"
            )
        return ViTVQGAN(shape)
    if not is_file(config.start_from):
        raise ConfigError(
            f"start_from: expected the file of a tokenizer, found none at {config.start_from}; give the one that "
            "it was saved in"
        )
    start = read_own_tokenizer(config.start_from)
    if not isinstance(start, ViTVQGAN):
        raise ConfigError(f"start_from: expected a ViT-VQGAN, found {start.spec.name}; name another file")
    network = with_new_decoder(start, shape)
    if config.train == "decoder":
        network.freeze_encoder()
    return network
