"""The job that trains a Parti prior on token shards, in one process or in several that torchrun started."""

from dataclasses import asdict

import torch

from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import save_prior
from model.training.loop import train
from model.training.prior_config import TrainPriorConfig
from model.training.prior_trainee import PriorData, PriorTrainee
from model.training.ranks import Ranks, join_ranks
from model.training.row_job import (
    cut_text,
    finish_job,
    open_held_out,
    refuse_uneven,
    shape_of_pairs,
    start_digest,
    text_metadata,
)  # fmt: skip
from model.training.sharding import whole_weights
from model.training.warm_start import read_start
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, read_manifest
from parti_data.storage import join
from parti_data.token_dataset import TokenDataset

__all__ = ["TrainPriorConfig", "train_prior"]

PRIOR = "prior.safetensors"


def train_prior(config: TrainPriorConfig) -> Manifest:
    """Train and write a prior; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        refuse_uneven(config.batch_size, config.batch_parts, ranks)
        data = _open_tokens(config, ranks)
        metadata = text_metadata(data.tokens)
        shape = shape_of_pairs(PartiShape, metadata, config.architecture)
        start = read_start(config.start_from, shape, metadata.text_tokenizer)
        begun = _begin(config, data) if ranks.is_first else None
        if ranks.from_first(isinstance(begun, Manifest)):
            return read_manifest(config.output)
        torch.manual_seed(config.seed)
        network = Parti(shape)
        if start:
            network.text_encoder.load_state_dict(start.state_dict())
        trainee = PriorTrainee(config, network, data, ranks)
        train(trainee, config.schedule, config.output, "train prior", config.running, ranks)
        weights = whole_weights(trainee.trained)
        if isinstance(begun, StageDirectory):
            trained = Parti(shape)
            trained.load_state_dict(weights)
            save_prior(trained, metadata, join(config.output, PRIOR))
            told = {"shape": asdict(shape), "metadata": metadata.model_dump(mode="json")}
            finish_job(begun, config, trained, [PRIOR], data.tokens.num_rows, **told)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _begin(config: TrainPriorConfig, data: PriorData) -> StageDirectory | Manifest:
    inputs = {"source": data.tokens.digest} | ({"held_out": data.held_out.digest} if data.held_out else {})
    inputs |= start_digest(config.start_from)
    return begin(config.output, Beginning(stage="train_prior", config=config.deciding(), inputs=inputs))


def _open_tokens(config: TrainPriorConfig, ranks: Ranks) -> PriorData:
    """Return what is trained on, and what is measured on, in batches as large as a part of what is trained on."""
    text = cut_text(config, PartiShape, config.architecture)
    place = ranks.rank, ranks.world_size
    tokens = TokenDataset(config.source, config.batch_size, config.seed, *place, text=text, reading=config.reading)
    if not config.held_out:
        return PriorData(tokens, None)
    size = config.batch_size // config.batch_parts
    return PriorData(tokens, open_held_out(config.held_out, tokens, config, text, size, ranks))
