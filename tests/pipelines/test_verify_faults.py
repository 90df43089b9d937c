import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from spoiled_tokens import restate, shards_of

from parti_data.errors import ShardError
from parti_data.token_shard import read_row_group
from pipelines.tokenize import tokenize_pairs
from pipelines.verify import verify


def truncate(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip_bit(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def append_byte(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes([rng.randrange(256)]))


def delete(rng: random.Random, path: Path) -> None:
    path.unlink()


@pytest.fixture(scope="module")
def spoil(tmp_path_factory, make_tokenize_config, beam_options) -> Callable[[random.Random, Path], set[str]]:
    """Spoil a directory in one of many ways and return the names of the files that it struck."""
    other = tmp_path_factory.mktemp("other") / "tokens"
    tokenize_pairs(make_tokenize_config(other, seed=1), beam_options())

    def spoil(rng: random.Random, directory: Path) -> set[str]:
        paths = shards_of(directory)
        path = rng.choice(paths)
        way = rng.choice([truncate, flip_bit, flip_bit, append_byte, delete, "swap", "foreign"])
        if way == "swap":
            second = rng.choice([one for one in paths if one != path])
            content = path.read_bytes()
            path.write_bytes(second.read_bytes())
            second.write_bytes(content)
            return {path.name, second.name}
        if way == "foreign":
            shutil.copy(rng.choice(shards_of(other)), path)
        else:
            way(rng, path)
        return {path.name}

    return spoil


def test_each_of_200_random_faults_is_found_and_named(tokens, tmp_path, spoil):
    rng = random.Random(0)
    for _ in range(200):
        copy = Path(shutil.copytree(tokens, tmp_path / "copy"))
        struck = spoil(rng, copy)
        with pytest.raises(ShardError) as found:
            verify(str(copy))
        lines = str(found.value).split("\n")[1:]
        assert {Path(line.strip().partition(":")[0]).name for line in lines} == struck
        shutil.rmtree(copy)


@pytest.mark.parametrize("way", [truncate, flip_bit, append_byte])
def test_no_random_fault_behind_a_right_digest_changes_what_is_read(tokens, tmp_path, way):
    """And none ends in anything but a named fault."""
    rng = random.Random(1)
    copy = Path(shutil.copytree(tokens, tmp_path / "copy"))
    path = rng.choice(shards_of(copy))
    whole, table = path.read_bytes(), read_row_group(str(path), 0)
    for _ in range(40):
        path.write_bytes(whole)
        way(rng, path)
        restate(copy, path.name)
        try:
            verify(str(copy), 0)
        except ShardError as error:
            assert path.name in str(error)  # noqa: PT017
        else:
            assert read_table(path) == table


def read_table(path: Path) -> pa.Table:
    return read_row_group(str(path), 0)
