"""What the jobs share that train on rows of ids: what they refuse, how they open token shards, how they end."""

from typing import Any, TypeVar

from torch import nn

from model.shapes import make_shape
from model.text_encoder import TextEncoderShape
from model.training.checkpoint import METRICS
from model.training.ranks import Ranks
from model.training.row_config import TrainOnRowsConfig
from parti_data.caption_ids import TextReading
from parti_data.errors import ConfigError, ShardError
from parti_data.manifest import Manifest, StageDirectory, record_shard
from parti_data.storage import sha256_file
from parti_data.token_dataset import TokenDataset, refuse_unlike
from parti_data.token_shard import ShardMetadata

S = TypeVar("S", bound=TextEncoderShape)


def refuse_uneven(batch_size: int, batch_parts: int, ranks: Ranks) -> None:
    """Raise ConfigError, before anything is begun, for a batch that ranks and parts do not share evenly."""
    if batch_size % (ranks.world_size * batch_parts):
        raise ConfigError(
            f"batch_size: expected a multiple of {ranks.world_size} ranks times {batch_parts} batch_parts, found "
            f"{batch_size}; change one of them"
        )


def cut_text(config: TrainOnRowsConfig, kind: type[S], architecture: dict[str, Any]) -> TextReading:
    """Return how text is read for an architecture, whose positions bound its length."""
    longest = make_shape(kind, architecture).max_text_length
    return config.text.model_copy(update={"length": min(config.text.length, longest)})


def open_held_out(
    path: str, trained: TokenDataset, config: TrainOnRowsConfig, text: TextReading, batch_size: int, ranks: Ranks
) -> TokenDataset:
    """Return what is measured on, its captions cut as they are without dropout; raises ShardError where it is unlike
    what is trained on.
    """
    plain = text.model_copy(update={"bpe_dropout": 0.0})
    held_out = TokenDataset(path, batch_size, 0, ranks.rank, ranks.world_size, text=plain, reading=config.reading)
    refuse_unlike([*trained.directories, *held_out.directories], plain)
    return held_out


def text_metadata(tokens: TokenDataset) -> ShardMetadata:
    """Return the shards' metadata, with the text tokenizer that gives the ids."""
    text = {"text_tokenizer": tokens.text_tokenizer, "text_vocabulary_size": tokens.text_vocabulary_size}
    return tokens.metadata.model_copy(update=text)


def shape_of_pairs(kind: type[S], metadata: ShardMetadata, architecture: dict[str, Any]) -> S:
    """Return the architecture that fits the shards; raises ConfigError, or ShardError where they have no raster."""
    if metadata.num_quantizers > 1:
        raise ShardError(
            f"source: expected one token a position, found {metadata.num_quantizers} of a residual "
            f"{metadata.image_tokenizer_name}; tokenize with a tokenizer without a residual"
        )
    return make_shape(
        kind,
        architecture,
        text_vocabulary_size=metadata.text_vocabulary_size,
        codebook_size=metadata.codebook_size,
        grid_side=metadata.grid_side,
    )


def start_digest(start_from: str) -> dict[str, str]:
    """Return the digest of the file with whose text encoder training begins, where there is one."""
    return {"start_from": sha256_file(start_from)} if start_from else {}


def finish_job(
    begun: StageDirectory, config: TrainOnRowsConfig, network: nn.Module, files: list[str], num_rows: int, **told: Any
) -> Manifest:
    """Write the manifest of these files and the metrics; its details say whose weights were measured and saved."""
    details = told | {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights": "average" if config.ema_decay else "last",
    }
    shards = [record_shard(config.output, name, 0) for name in (*files, METRICS)]
    return begun.finish(shards, {"rows": num_rows}, details)
