"""The job that trains a contrastive model on token shards, in one process or in several that torchrun started."""

import torch

from model.contrastive import Contrastive, ContrastiveShape, save_contrastive
from model.training.contrastive_config import TrainContrastiveConfig
from model.training.contrastive_trainee import ContrastiveTrainee
from model.training.joint_beginning import begin_on_ranks
from model.training.loop import train
from model.training.pair_job import Measuring, begin_on_pairs, open_pairs
from model.training.ranks import Ranks, join_ranks
from model.training.row_job import finish_job, refuse_uneven, tell_skipped
from parti_data.manifest import Manifest, StageDirectory, read_manifest
from parti_data.storage import join

__all__ = ["TrainContrastiveConfig", "train_contrastive"]

CONTRASTIVE = "contrastive.safetensors"


def train_contrastive(config: TrainContrastiveConfig) -> Manifest:
    """Train and write a contrastive model; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        refuse_uneven(config.batch_size, 1, ranks)
        at_a_time = min(config.measured_rows, config.batch_size // ranks.world_size)
        measuring = Measuring(Ranks(), at_a_time)  # the first alone
        pairs = open_pairs(config, ContrastiveShape, ranks, measuring)
        begun = begin_on_ranks(ranks, config.output, lambda: begin_on_pairs("train_contrastive", config, pairs))
        if isinstance(begun, Manifest):
            return begun
        torch.manual_seed(config.seed)
        network = Contrastive(pairs.shape)
        pairs.begin_text_encoder(network)
        trainee = ContrastiveTrainee(config, network, pairs.tokens, pairs.held_out, ranks)
        train(trainee, config.schedule, config.output, "train contrastive", config.running, ranks)
        told = pairs.told() | tell_skipped(pairs.tokens, "train contrastive", ranks)
        if isinstance(begun, StageDirectory):
            save_contrastive(trainee.trained, pairs.metadata, join(config.output, CONTRASTIVE))
            finish_job(begun, config, trainee.trained, [CONTRASTIVE], pairs.tokens.num_rows, **told)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)
