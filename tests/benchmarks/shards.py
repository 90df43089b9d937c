"""Bits a token on disk, uniform codes (the worst case), against ceil(log2 of the codebook size)."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from parti_data.token_shard import ShardMetadata, TokenRow, to_table, write_token_shard
from tests.benchmarks.run import Figure

ROWS = 8192


def figures() -> Iterator[Figure]:
    for codebook_size, grid_side in ((256, 8), (1024, 8), (8192, 32)):
        bits = bits_a_token(codebook_size, grid_side)
        goal = 1.05 * math.ceil(math.log2(codebook_size))
        yield Figure(f"bits_a_token_{codebook_size}_codes_{grid_side**2}_tokens", round(bits, 4), goal, "less")


def bits_a_token(codebook_size: int, grid_side: int) -> float:
    metadata = ShardMetadata(
        image_tokenizer="0", image_tokenizer_name="none", codebook_size=codebook_size, grid_side=grid_side,
        image_side=8 * grid_side, resize_recipe="none", resize_library="none", precision="float32", text_tokenizer="0",
        text_vocabulary_size=16, config_digest="0", input_digest="0",
    )  # fmt: skip
    tokens = np.random.default_rng(0).integers(0, codebook_size, (ROWS, grid_side**2))
    rows = [
        TokenRow(f"{n:032x}", 0, [0, 0, 8, 8], False, ["x"], [[2]], row, "s", str(n)) for n, row in enumerate(tokens)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "shard.parquet")
        write_token_shard(path, to_table(rows, metadata), metadata)
        footer = pq.ParquetFile(path).metadata
        sizes = [
            footer.row_group(group).column(column).total_compressed_size
            for group in range(footer.num_row_groups)
            for column in range(footer.num_columns)
            if footer.row_group(group).column(column).path_in_schema.startswith("image_tokens")
        ]
    return 8 * sum(sizes) / tokens.size
