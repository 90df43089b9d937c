"""What token shards hold: their size against the least that their codes need, and how the codes are used."""

import math
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.storage import join, open_file
from parti_data.token_shard import ShardMetadata, read_metadata, read_row_group, token_matrix
from pipelines.report.charts import Histogram, draw_code_usage
from pipelines.report.quality import QualityView, read_quality
from pipelines.report.stages import FinishedStage

_TOKENS = "image_tokens"
_SAMPLED_GROUPS = 8


class TokenShards(NamedTuple):
    """The section on a directory of token shards; usage and entropy are of the sampled rows."""

    name: str
    metadata: ShardMetadata
    pairs: int
    rows: int
    """More than pairs where there are several views of an image."""
    shards: int
    num_bytes: int
    image_bytes: float
    """Of the image tokens of one row, as compressed on disk."""
    packed_bytes: float
    """Of the same at ceil(log2 V) bits a token."""
    sampled_rows: int
    codes_used: int
    entropy_bits: float
    usage: Histogram
    quality: QualityView | None


def read_tokens(stage: FinishedStage) -> TokenShards:
    """Return a finished tokenize stage; raises ShardError where a shard of it is gone or broken."""
    names = [shard.name for shard in stage.manifest.shards]
    paths = [join(stage.path, name) for name in names]
    if not paths:
        raise ShardError(f"{stage.path}: expected token shards, found none; run tokenize into a new directory")
    metadata, _ = read_metadata(paths[0])
    rows = sum(shard.rows for shard in stage.manifest.shards)
    counts, sampled_rows = count_codes(paths, metadata.codebook_size)
    bits = math.ceil(math.log2(metadata.codebook_size))
    return TokenShards(
        name=stage.name,
        metadata=metadata,
        pairs=stage.manifest.counts.get("pairs", rows),
        rows=rows,
        shards=len(paths),
        num_bytes=sum(shard.bytes for shard in stage.manifest.shards),
        image_bytes=sum(map(column_bytes, paths)) / max(rows, 1),
        packed_bytes=bits * metadata.num_tokens / 8,
        sampled_rows=sampled_rows,
        codes_used=int(np.count_nonzero(counts)),
        entropy_bits=entropy(counts),
        usage=draw_code_usage(counts),
        quality=read_quality(stage),
    )


def column_bytes(path: str) -> int:
    """Return the compressed bytes of a shard's image tokens, from its footer."""
    with open_file(path) as file:
        footer = pq.ParquetFile(file).metadata
    columns = [
        footer.row_group(group).column(column)
        for group in range(footer.num_row_groups)
        for column in range(footer.num_columns)
    ]
    return sum(chunk.total_compressed_size for chunk in columns if chunk.path_in_schema.split(".")[0] == _TOKENS)


def count_codes(paths: list[str], codebook_size: int) -> tuple[np.ndarray, int]:
    """Return how often each code occurs, int64 (V,), in the first few row groups, and how many rows those have."""
    places = ((path, group) for path in paths for group in range(len(read_metadata(path)[1])))
    counts, rows = np.zeros(codebook_size, np.int64), 0
    for _, (path, group) in zip(range(_SAMPLED_GROUPS), places, strict=False):
        table = read_row_group(path, group, [_TOKENS])
        if len(table):
            found = np.bincount(token_matrix(table).ravel(), minlength=codebook_size)
            if len(found) > codebook_size:
                raise ShardError(
                    f"{path}: expected tokens below {codebook_size}, found {len(found) - 1}; run tokenize into a new "
                    "directory"
                )
            counts += found
            rows += len(table)
    return counts, rows


def entropy(counts: np.ndarray) -> float:
    """Return the entropy in bits of codes that occur so often."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0
