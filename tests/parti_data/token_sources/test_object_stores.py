"""Sources of tokens read from a storage that is not this machine's disk."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
from foreign_tokens import (
    draw_tokens,
    write_dalle_mini,
    write_llamagen_classes,
    write_llamagen_texts,
    write_npy_tar,
    write_rar,
)
from pydantic import TypeAdapter

from parti_data.token_sources import TokenSource

TOKENS = draw_tokens(40)
CAPTIONS = [f"number {number}" for number in range(40)]


@pytest.fixture
def stored(tmp_path) -> str:
    """A folder in memory with a source of each kind."""
    write_dalle_mini(tmp_path / "parquet/a.parquet", list(TOKENS), CAPTIONS)
    write_npy_tar(tmp_path / "tars/a.tar", TOKENS, CAPTIONS)
    write_rar(tmp_path / "a.jsonl", TOKENS, [0] * 40)
    write_llamagen_classes(tmp_path, TOKENS[:, None], [0] * 40)
    write_llamagen_texts(tmp_path, "00", TOKENS, [[caption] for caption in CAPTIONS])
    (tmp_path / "names.txt").write_text("number\n")
    memory = fsspec.filesystem("memory")
    root = f"/{Path(tmp_path).name}"
    memory.put(str(tmp_path), root, recursive=True)
    return f"memory:/{root}"


@pytest.mark.parametrize(
    ("options", "has_captions"),
    [
        ({"kind": "dalle_mini", "path": "parquet"}, True),
        ({"kind": "npy_tars", "path": "tars/*.tar"}, True),
        ({"kind": "rar", "path": "a.jsonl", "class_names": "names.txt"}, False),
        ({"kind": "llamagen", "path": "imagenet256_codes", "class_names": "names.txt"}, False),
        ({"kind": "llamagen", "path": "codes", "captions": "captions"}, True),
    ],
)
def test_every_kind_is_read_from_there(stored, options, has_captions):
    places = {name: value if name == "kind" else f"{stored}/{value}" for name, value in options.items()}
    source = TypeAdapter(TokenSource).validate_python(places)
    images = [image for part in source.slices(7).slices for image in source.read(part)]
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]).reshape(40, -1), TOKENS)
    assert [image.captions for image in images] == [[caption if has_captions else "number"] for caption in CAPTIONS]
