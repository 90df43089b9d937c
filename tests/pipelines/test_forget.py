"""Rows forgotten in the whole chain: gone from every file, and nothing else changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.ledger import FORGOTTEN, PairDirectory
from parti_data.manifest import read_manifest
from parti_data.storage import join
from parti_data.token_shard import read_row_group
from pipelines.forget import Options, forget, read_names
from pipelines.verify import verify


def by_key(*keys: str):
    return read_names(keys, [], [], [])


@pytest.fixture
def runs(tmp_path, filtered, sharded, tokens) -> Path:
    """A directory of all three stages."""
    for name, path in (("pairs", filtered), ("shards", sharded), ("tokens", tokens)):
        shutil.copytree(path, tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_x(runs, capsys):
    rows = list(PairDirectory(str(runs / "pairs")).kept())
    forget(str(runs), by_key(rows[0].key, rows[5].key))
    print(capsys.readouterr().out)
    for n in ("pairs", "shards", "tokens"):
        print(verify(str(runs / n)))
