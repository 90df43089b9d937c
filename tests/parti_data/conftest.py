"""Directories of token shards, small, where a test wants them."""

import hashlib
from collections.abc import Callable

import pytest

from parti_data.manifest import Manifest, ShardRecord, shard_name
from parti_data.storage import publish_bytes
from parti_data.token_directory import TokenDirectory
from parti_data.token_shard import ROW_GROUP_ROWS, ShardMetadata


@pytest.fixture(scope="session")
def made_up_metadata() -> ShardMetadata:
    """Of shards of 4 tokens a row."""
    return ShardMetadata(
        image_tokenizer="ab" * 32, image_tokenizer_name="vit_vqgan", codebook_size=256, grid_side=2, image_side=32,
        resize_recipe="resize_center", resize_library="pillow 1", precision="float32", text_tokenizer="cd" * 32,
        text_vocabulary_size=1000, config_digest="e", input_digest="f",
    )  # fmt: skip


@pytest.fixture(scope="session")
def shards_of(made_up_metadata) -> Callable[[str, list[bytes]], TokenDirectory]:
    """A directory whose shards are any bytes, for those who do not look into them."""

    def make(path: str, contents: list[bytes]) -> TokenDirectory:
        records = []
        for number, content in enumerate(contents):
            name = shard_name("tokens", number, len(contents), "parquet")
            publish_bytes(f"{path}/{name}", content)
            digest = hashlib.sha256(content).hexdigest()
            records.append(ShardRecord(name=name, rows=1, bytes=len(content), sha256=digest))
        manifest = Manifest(stage="tokenize", config={}, inputs={}, shards=records)
        return TokenDirectory(path, "", manifest, made_up_metadata, ROW_GROUP_ROWS)

    return make
