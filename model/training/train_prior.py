"""The job that trains a prior on token shards, in one process or in several that torchrun started."""

import torch

from model.priors.families import FAMILIES
from model.priors.prior_file import save_prior
from model.training.joint_beginning import begin_on_ranks
from model.training.loop import train
from model.training.pair_job import Measuring, begin_on_pairs, open_pairs
from model.training.prior_config import TrainPriorConfig
from model.training.prior_trainee import PriorTrainee
from model.training.ranks import join_ranks
from model.training.row_job import finish_job, refuse_uneven, tell_skipped
from model.training.sharding import whole_weights
from parti_data.manifest import Manifest, StageDirectory, read_manifest
from parti_data.progress import print_line
from parti_data.storage import join

__all__ = ["TrainPriorConfig", "train_prior"]

PRIOR = "prior.safetensors"


def train_prior(config: TrainPriorConfig) -> Manifest:
    """Train and write a prior; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        refuse_uneven(config.batch_size, config.batch_parts, ranks)
        measuring = Measuring(ranks, config.batch_size // config.batch_parts)
        family = FAMILIES[config.family]
        pairs = open_pairs(config, family.shape, ranks, measuring)
        begun = begin_on_ranks(ranks, config.output, lambda: begin_on_pairs("train_prior", config, pairs))
        if isinstance(begun, Manifest):
            return begun
        torch.manual_seed(config.seed)
        network = family.network(pairs.shape)
        pairs.begin_text_encoder(network)
        trainee = PriorTrainee(config, network, pairs.tokens, pairs.held_out, ranks)
        told = pairs.told()
        if trainee.branch_cost and ranks.is_first:
            print_line(trainee.branch_cost.line())
            told["noble"] = trainee.branch_cost.told()
        train(trainee, config.schedule, config.output, "train prior", config.running, ranks)
        told |= tell_skipped(pairs.tokens, "train prior", ranks)
        weights = whole_weights(trainee.trained)
        if isinstance(begun, StageDirectory):
            trained = family.network(pairs.shape)
            trained.load_state_dict(weights)
            save_prior(trained, pairs.metadata, join(config.output, PRIOR), text_drop=config.text_drop)
            finish_job(begun, config, trained, [PRIOR], pairs.tokens.num_rows, **told)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)
