"""Token shards of random rows, as `tokenize` writes them: for benchmarks, made at once.

Rows are numbered in the order of their source, and `source_key` is that number; the key is a hash of it, and the rows
lie where the hash of the key puts them.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parti_data.manifest import Beginning, ShardRecord, StageDirectory, begin, record_shard, shard_name
from parti_data.token_shard import ShardMetadata, order_hash, token_schema, write_token_shard

CODES, GRID_SIDE = 8192, 32
NUM_WORDS, WORDS_A_CAPTION = 5_000, 10
MEAN_TEXT_IDS, MAX_TEXT_IDS = 15.6, 64
ROWS_A_SHARD = 32_768
"""As tokenize's default."""
ROWS_A_SPARSE_SHARD, NUM_SPARSE = 10_000, 3
DrawCodes = Callable[[np.random.Generator, int], np.ndarray]

METADATA = ShardMetadata(
    image_tokenizer="ab" * 32,
    image_tokenizer_name="random",
    codebook_size=CODES,
    grid_side=GRID_SIDE,
    image_side=256,
    resize_recipe="none",
    resize_library="none",
    precision="float32",
    text_tokenizer="cd" * 32,
    text_vocabulary_size=16_000,
    config_digest="ef" * 32,
    input_digest="01" * 32,
)


def uniform_codes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return codes of 13 bits."""
    return rng.integers(0, CODES, count, np.uint16)


def zipf_codes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return codes whose n-th most frequent is drawn in proportion to 1/n: 9.36 bits."""
    shares = 1 / np.arange(1, CODES + 1)
    numbers = np.random.default_rng(0).permutation(CODES).astype(np.uint16)
    ends = np.round(np.cumsum(shares) / shares.sum() * (1 << 20)).astype(np.int64)
    table = np.repeat(numbers, np.diff(ends, prepend=0))
    return table[rng.integers(0, len(table), count, np.uint32)]


def write_directory(path: Path, num_rows: int, draw_codes: DrawCodes) -> Path:
    """Write a directory of token shards and return where."""
    directory = _begin(path)
    keys = np.array([hashlib.sha256(b"%d" % number).hexdigest()[:32] for number in range(num_rows)])
    hashes = np.array([order_hash(key, 0, 0) for key in keys.tolist()], np.uint64)
    total = -(-num_rows // ROWS_A_SHARD)
    records = []
    for shard in range(total):
        numbers = np.flatnonzero(hashes % np.uint64(total) == shard)
        numbers = numbers[np.argsort(hashes[numbers])]
        records.append(_write_shard(path, (shard, total), numbers, keys[numbers], draw_codes))
    return _finish(directory, records)


def write_sparse_directories(path: Path, nums_shards: list[int]) -> list[Path]:
    """Write directories of so many shards, whose files are links to the few of one of them, and return where."""
    real = path / "real"
    _begin(real)
    files = []
    for shard in range(NUM_SPARSE):
        numbers = np.arange(shard * ROWS_A_SPARSE_SHARD, (shard + 1) * ROWS_A_SPARSE_SHARD)
        keys = np.array([f"{number:032x}" for number in numbers])
        files.append(_write_shard(real, (shard, NUM_SPARSE), numbers, keys, uniform_codes))
    made = []
    for total in nums_shards:
        directory = _begin(path / f"{total}-shards")
        records = []
        for number in range(total):
            file = files[number % NUM_SPARSE]
            name = shard_name("tokens", number, total, "parquet")
            os.link(real / file.name, Path(directory.path) / name)
            records.append(file.model_copy(update={"name": name}))
        made.append(_finish(directory, records))
    return made


def _begin(path: Path) -> StageDirectory:
    directory = begin(str(path), Beginning(stage="tokenize", config={"seed": 0}, inputs={}))
    assert isinstance(directory, StageDirectory), path
    return directory


def _finish(directory: StageDirectory, records: list[ShardRecord]) -> Path:
    rows = sum(record.rows for record in records)
    directory.finish(records, {"pairs": rows, "rows": rows}, {"metadata": METADATA.model_dump(mode="json")})
    return Path(directory.path)


def _write_shard(
    path: Path, place: tuple[int, int], numbers: np.ndarray, keys: np.ndarray, draw_codes: DrawCodes
) -> ShardRecord:
    name = shard_name("tokens", *place, "parquet")
    rng = np.random.default_rng([len(numbers), *place])
    write_token_shard(str(path / name), _table(rng, numbers, keys, draw_codes), METADATA)
    return record_shard(str(path), name, len(numbers))


def _table(rng: np.random.Generator, numbers: np.ndarray, keys: np.ndarray, draw_codes: DrawCodes) -> pa.Table:
    count = len(numbers)
    columns: dict[str, Any] = {
        "key": keys,
        "view": np.zeros(count, np.uint8),
        "box": np.tile(np.array([0, 0, 256, 256], np.int32), count),
        "flipped": np.zeros(count, bool),
        "captions": _captions(rng, count),
        "text_ids": _text_ids(rng, count),
        "image_tokens": draw_codes(rng, count * GRID_SIDE**2),
        "source": np.array([f"laion/part-{number // 10_000:05d}.tar" for number in numbers.tolist()]),
        "source_key": np.array([f"{number:09d}" for number in numbers.tolist()]),
    }
    schema = token_schema(METADATA)
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind)
    return pa.array(values, kind)


def _captions(rng: np.random.Generator, count: int) -> pa.Array:
    """Return one caption a row, of words of 2 to 9 letters."""
    letters = rng.integers(97, 123, (NUM_WORDS, 9), np.uint8)
    words = [
        bytes(word[:length]).decode() for word, length in zip(letters, rng.integers(2, 10, NUM_WORDS), strict=True)
    ]
    chosen = pa.array(words).take(pa.array(rng.integers(0, NUM_WORDS, count * WORDS_A_CAPTION)))
    ends = np.arange(0, len(chosen) + 1, WORDS_A_CAPTION, dtype=np.int32)
    captions = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), chosen), " ")
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32)), captions)


def _text_ids(rng: np.random.Generator, count: int) -> pa.Array:
    lengths = np.clip(rng.poisson(MEAN_TEXT_IDS, count), 1, MAX_TEXT_IDS)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = pa.ListArray.from_arrays(
        pa.array(ends), pa.array(rng.integers(3, METADATA.text_vocabulary_size, ends[-1], np.uint16))
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32)), ids)
