"""Forgetting on S3 and GCS: the same bytes as on a disk, little read, and done after a failure."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from stops_at_a_moment import StoppedError, stop_at
from test_forget import STAGES, by_key, silent

from parti_data import object_stores
from parti_data.claim import LEASE, LeaseTimes
from parti_data.errors import StorageError
from parti_data.ledger import PairDirectory
from parti_data.manifest import MANIFEST, Beginning, StageDirectory, read_manifest, record_shard
from parti_data.storage import file_size, list_directory
from parti_data.token_shard import ShardMetadata, TokenRow, to_table, write_tables
from pipelines.forget import Options, forget
from pipelines.verify import verify

AT_ONCE = LeaseTimes(settle_s=0)


@pytest.fixture(scope="module")
def local(tmp_path_factory, request) -> tuple[Path, list[str]]:
    """A directory of two stages, and keys to forget."""
    root = tmp_path_factory.mktemp("stores")
    for name in ("pairs", "shards"):
        shutil.copytree(request.getfixturevalue(STAGES[name]), root / "runs" / name)
    rows = list(PairDirectory(str(root / "runs" / "pairs")).kept())
    return root / "runs", [rows[2].key, rows[40].key]


def test_forgetting_gives_the_bytes_of_the_local_run(store, local, tmp_path, contents):
    runs, keys = local
    url = f"{store.new_bucket()}/runs"
    store.upload(str(runs), url)
    here = shutil.copytree(runs, tmp_path / "runs")
    lines: dict[str, list[str]] = {"here": [], "there": []}
    forget(str(here), by_key(*keys), lines["here"].append)
    forget(url, by_key(*keys), lines["there"].append, times=AT_ONCE)
    assert store.contents(url) == contents(here)
    assert lines["here"] == lines["there"]
    assert LEASE not in list_directory(url)
    assert "files of shard as the manifest says" in verify(f"{url}/shards")[0]


def test_a_swap_that_was_stopped_on_a_store_goes_on(s3, local, tmp_path, contents):
    runs, keys = local
    here, url = shutil.copytree(runs, tmp_path / "runs"), f"{s3.new_bucket()}/runs"
    forget(str(here), by_key(*keys), silent)
    s3.upload(str(runs), url)
    with stop_at(14), pytest.raises(StoppedError):  # an upload is no moment: this is among the files that move
        forget(url, by_key(*keys), silent, times=AT_ONCE)
    assert [MANIFEST in list_directory(f"{url}/{name}") for name in ("pairs", "shards")] == [False, False]
    forget(url, by_key(*keys), silent, times=AT_ONCE)
    assert s3.contents(url) == contents(here)


def test_a_store_that_refuses_an_upload_leaves_all_as_it_was(s3, local, contents):
    runs, keys = local
    url = f"{s3.new_bucket()}/runs"
    s3.upload(str(runs), url)
    before = s3.contents(url)
    s3.fault = lambda request: "403 Forbidden" if request.startswith("PUT") and "forgetting/pairs" in request else None
    with pytest.raises(StorageError, match="expected to write it, found OSError .*Forbidden"):
        forget(url, by_key(*keys), silent, times=AT_ONCE)
    left = {name: content for name, content in s3.contents(url).items() if "forgetting" not in name}
    assert left == before


@pytest.fixture
def large(s3) -> str:
    """A token shard of twenty row groups, of which each has the keys that begin with its number; finished."""
    metadata = ShardMetadata(
        image_tokenizer="a", image_tokenizer_name="vit_vqgan", codebook_size=8192, grid_side=16, image_side=32,
        resize_recipe="r", resize_library="p", precision="float32", text_tokenizer="b", text_vocabulary_size=64,
        config_digest="c", input_digest="d",
    )  # fmt: skip
    codes = np.random.default_rng(0).integers(0, 8192, (1000, 256))
    url = f"{s3.new_bucket()}/tokens"

    def rows(group: int) -> list[TokenRow]:
        return [
            TokenRow(f"{group:02d}{n:030x}", 0, [0, 0, 8, 8], False, ["x"], [[1]], codes[n], "s", "k")
            for n in range(1000)
        ]

    write_tables(f"{url}/tokens-00000-of-00001.parquet", [to_table(rows(n), metadata) for n in range(20)], metadata)
    record = record_shard(url, "tokens-00000-of-00001.parquet", 20_000)
    details = {"metadata": metadata.model_dump(mode="json"), "row_group_rows": 1000}
    directory = StageDirectory(url, Beginning(stage="tokenize", config={"seed": 0}, inputs={}))
    directory.finish([record], {"pairs": 20_000, "rows": 20_000}, details)
    return url


@pytest.mark.parametrize(("key", "most_bytes"), [("05" + "0" * 30, 1 << 20), ("99" + "0" * 30, 1 << 19)])
def test_of_a_shard_the_keys_of_few_row_groups_are_read(large, monkeypatch, key, most_bytes):
    sizes, fetch = [], object_stores._fetch

    def fetch_and_tell(*arguments):
        content = fetch(*arguments)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(object_stores, "_fetch", fetch_and_tell)
    options = Options(dry_run=True, allow_missing=True)
    forget(large, by_key(key), silent, options)
    assert sum(sizes) < most_bytes < file_size(f"{large}/tokens-00000-of-00001.parquet") / 6
    assert MANIFEST in list_directory(large)
    assert read_manifest(large).counts["rows"] == 20_000
