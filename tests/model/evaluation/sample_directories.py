"""Directories as `parti sample` leaves them, for tests, with pictures of one colour."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.images import to_png
from parti_data.manifest import Beginning, StageDirectory, begin, record_shard

Row = tuple[str, str, str]
"""Prompt, category and challenge."""


def make_samples(
    path: Path,
    prompts: list[Row],
    copies: int = 1,
    side: int = 8,
    pictures: list | None = None,
    beginning: dict | None = None,
) -> str:
    """Write a finished directory with `copies` samples of each prompt, whose pictures may be files' bytes; its path."""
    begun = begin(
        str(path), Beginning.model_validate({"stage": "sample", "config": {}, "inputs": {}} | (beginning or {}))
    )
    assert isinstance(begun, StageDirectory)
    rows = [
        (*prompt, copy, f"sample-{n:05d}-{copy:03d}.png") for n, prompt in enumerate(prompts) for copy in range(copies)
    ]
    pictures = pictures or [np.full((side, side, 3), 40 + n % 200, np.uint8) for n in range(len(rows))]
    for row, picture in zip(rows, pictures, strict=True):
        (path / row[4]).write_bytes(picture if isinstance(picture, bytes) else to_png(picture))
    names = ("prompt", "category", "challenge", "sample", "picture")
    schema = pa.schema([(name, pa.int64() if name == "sample" else pa.string()) for name in names])
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)
    pq.write_table(table, path / "samples.parquet")
    files = ["samples.parquet", *(row[4] for row in rows)]
    begun.finish([record_shard(str(path), file, 0) for file in files], {"prompts": len(prompts), "images": len(rows)})
    return str(path)


def rank_samples(path: str, scores: list[float], kept: int) -> None:
    """Put scores and ranks into a directory's table, whose samples are in order, and leave out what is not kept."""
    table = pq.read_table(f"{path}/samples.parquet")
    copies = max(table["sample"].to_pylist()) + 1
    ranks = [number % copies + 1 for number in range(len(table))]
    pictures = [name if rank <= kept else "" for name, rank in zip(table["picture"].to_pylist(), ranks, strict=True)]
    table = table.set_column(table.column_names.index("picture"), "picture", pa.array(pictures))
    pq.write_table(table.append_column("score", [scores]).append_column("rank", [ranks]), f"{path}/samples.parquet")
