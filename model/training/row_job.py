"""What the jobs share that train on rows of ids: what they refuse, and what they tell when they are done."""

from typing import Any

from torch import nn

from model.training.checkpoint import METRICS
from model.training.ranks import Ranks
from model.training.row_config import TrainOnRowsConfig
from parti_data.caption_ids import TextReading
from parti_data.errors import ConfigError
from parti_data.manifest import StageDirectory, record_shard
from parti_data.progress import print_line
from parti_data.token_dataset import TokenDataset

_SHOWN_SHARDS = 4
_SKIPPED = (
    "{title}: {rows} rows of batches lie in shards that could not be read, so that others took their places: {shards}; "
    "run parti verify on what it reads"
)


def refuse_uneven(batch_size: int, batch_parts: int, ranks: Ranks) -> None:
    """Raise ConfigError, before anything is begun, for a batch that ranks and parts do not share evenly."""
    if batch_size % (ranks.world_size * batch_parts):
        parts = f" times {batch_parts} batch_parts" if batch_parts > 1 else ""
        raise ConfigError(
            f"batch_size: expected a multiple of {ranks.world_size} ranks{parts}, found {batch_size}; change one of "
            "them"
        )


def cut_text(config: TrainOnRowsConfig, longest: int | None) -> TextReading:
    """Return how text is read for an architecture that reads so many ids at most, where it reads any: all of them.

    Raises ConfigError for a `text.length` below: prompts may be as long as the architecture reads, and would reach
    positions that training never did.
    """
    text = config.text
    if longest and "length" in text.model_fields_set and text.length < longest:
        raise ConfigError(
            f"text.length: expected at least architecture.max_text_length = {longest}, found {text.length}: the "
            "positions beyond would never be learned; change one of them"
        )
    return text.model_copy(update={"length": longest or text.length})


def tell_skipped(tokens: TokenDataset, title: str, ranks: Ranks) -> dict[str, Any]:
    """Return what a manifest tells of shards that some rank could not read, and say it; nothing where all could.

    Their rows are those of the batches since the run was last started, whose places others took.
    """
    found = ranks.gather((tokens.skipped_rows, list(tokens.skipped)))
    num_rows, shards = sum(count for count, _ in found), sorted({path for _, paths in found for path in paths})
    if not shards:
        return {}
    if ranks.is_first:
        shown = ", ".join(shards[:_SHOWN_SHARDS])
        more = f" and {len(shards) - _SHOWN_SHARDS} more" if len(shards) > _SHOWN_SHARDS else ""
        print_line(_SKIPPED.format(title=title, rows=num_rows, shards=shown + more))
    return {"skipped": {"rows": num_rows, "shards": shards}}


def finish_job(
    begun: StageDirectory, config: TrainOnRowsConfig, network: nn.Module, files: list[str], num_rows: int, **told: Any
) -> None:
    """Write the manifest of these files and the metrics; its details say whose weights were measured and saved."""
    details = told | {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights": "average" if config.ema_decay else "last",
    }
    shards = [record_shard(config.output, name, 0) for name in (*files, METRICS)]
    begun.finish(shards, {"rows": num_rows}, details)
