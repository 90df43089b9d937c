"""What token shards hold: their size against the least that their codes need, and how the codes are used."""

import math
from itertools import islice
from typing import NamedTuple

import numpy as np

from parti_data.charts import Histogram, draw_code_usage
from parti_data.code_counts import count_codes, entropy, row_groups
from parti_data.errors import ShardError
from parti_data.shard_footer import column_bytes
from parti_data.storage import join
from parti_data.token_shard import ShardMetadata, read_metadata
from pipelines.report.quality import QualityView, read_quality
from pipelines.report.stages import FinishedStage

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
    """Return a finished tokenize or import_tokens stage; raises ShardError where a shard of it is gone or broken."""
    names = [shard.name for shard in stage.manifest.shards]
    paths = [join(stage.path, name) for name in names]
    if not paths:
        raise ShardError(
            f"{stage.path}: expected token shards, found none; run {stage.manifest.stage} into a new directory"
        )
    metadata, _ = read_metadata(paths[0])
    rows = sum(shard.rows for shard in stage.manifest.shards)
    counted = count_codes(islice(row_groups(paths), _SAMPLED_GROUPS), metadata.codebook_size)
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
        sampled_rows=counted.rows,
        codes_used=int(np.count_nonzero(counted.counts)),
        entropy_bits=entropy(counted.counts),
        usage=draw_code_usage(counted.counts),
        quality=read_quality(stage),
    )
