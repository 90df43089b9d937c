"""The job that trains a Parti prior on token shards, in one process or in several that torchrun started."""

from dataclasses import asdict
from typing import Any

import torch

from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import save_prior
from model.shapes import make_shape
from model.training.checkpoint import METRICS
from model.training.loop import train
from model.training.prior_config import TrainPriorConfig
from model.training.prior_trainee import PriorData, PriorTrainee
from model.training.ranks import Ranks, join_ranks
from model.training.sharding import whole_weights
from parti_data.errors import ConfigError, ShardError
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, read_manifest, record_shard
from parti_data.storage import join
from parti_data.token_dataset import TokenDataset, refuse_unlike
from parti_data.token_shard import ShardMetadata

__all__ = ["TrainPriorConfig", "train_prior"]

PRIOR = "prior.safetensors"


def train_prior(config: TrainPriorConfig) -> Manifest:
    """Train and write a prior; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        _refuse_uneven(config, ranks)
        data = _open_tokens(config, ranks)
        metadata = _metadata(data.tokens)
        shape = shape_for(metadata, config.architecture)
        begun = _begin(config, data) if ranks.is_first else None
        if ranks.from_first(isinstance(begun, Manifest)):
            return read_manifest(config.output)
        torch.manual_seed(config.seed)
        trainee = PriorTrainee(config, Parti(shape), data, ranks)
        train(trainee, config.schedule, config.output, "train prior", config.running, ranks)
        weights = whole_weights(trainee.trained)
        if isinstance(begun, StageDirectory):
            network = Parti(shape)
            network.load_state_dict(weights)
            save_prior(network, metadata, join(config.output, PRIOR))
            _finish(begun, config, network, data)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _refuse_uneven(config: TrainPriorConfig, ranks: Ranks) -> None:
    """Raise ConfigError, before anything is begun, for a batch that ranks and parts do not share evenly."""
    shares = ranks.world_size * config.batch_parts
    if config.batch_size % shares:
        raise ConfigError(
            f"batch_size: expected a multiple of {ranks.world_size} ranks times {config.batch_parts} batch_parts, "
            f"found {config.batch_size}; change one of them"
        )


def _metadata(tokens: TokenDataset) -> ShardMetadata:
    """Return the shards' metadata, with the text tokenizer that gives the ids."""
    text = {"text_tokenizer": tokens.text_tokenizer, "text_vocabulary_size": tokens.text_vocabulary_size}
    return tokens.metadata.model_copy(update=text)


def _begin(config: TrainPriorConfig, data: PriorData) -> StageDirectory | Manifest:
    inputs = {"source": data.tokens.digest} | ({"held_out": data.held_out.digest} if data.held_out else {})
    return begin(config.output, Beginning(stage="train_prior", config=config.deciding(), inputs=inputs))


def _finish(begun: StageDirectory, config: TrainPriorConfig, network: Parti, data: PriorData) -> None:
    """Write the manifest; its details say whose weights were measured and saved."""
    details = {
        "shape": asdict(network.shape),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights": "average" if config.ema_decay else "last",
        "metadata": _metadata(data.tokens).model_dump(mode="json"),
    }
    files = [record_shard(config.output, name, 0) for name in (PRIOR, METRICS)]
    begun.finish(files, {"rows": data.tokens.num_rows}, details)


def shape_for(metadata: ShardMetadata, architecture: dict[str, Any]) -> PartiShape:
    """Return the architecture that fits the shards; raises ConfigError, or ShardError where they have no raster."""
    if metadata.num_quantizers > 1:
        raise ShardError(
            f"source: expected one token a position, found {metadata.num_quantizers} of a residual "
            f"{metadata.image_tokenizer_name}; tokenize with a tokenizer without a residual to train a prior"
        )
    return make_shape(
        PartiShape,
        architecture,
        text_vocabulary_size=metadata.text_vocabulary_size,
        codebook_size=metadata.codebook_size,
        grid_side=metadata.grid_side,
    )


def _open_tokens(config: TrainPriorConfig, ranks: Ranks) -> PriorData:
    """Return what is trained on, and what is measured on, whose captions are cut as they are without dropout.

    What is measured comes in batches as large as a part of what is trained on.
    """
    longest = make_shape(PartiShape, config.architecture).max_text_length
    text = config.text.model_copy(update={"length": min(config.text.length, longest)})
    place = ranks.rank, ranks.world_size
    tokens = TokenDataset(config.source, config.batch_size, config.seed, *place, text=text, reading=config.reading)
    if not config.held_out:
        return PriorData(tokens, None)
    plain = text.model_copy(update={"bpe_dropout": 0.0})
    size = config.batch_size // config.batch_parts
    held_out = TokenDataset(config.held_out, size, 0, *place, text=plain, reading=config.reading)
    refuse_unlike([*tokens.directories, *held_out.directories], plain)
    return PriorData(tokens, held_out)
