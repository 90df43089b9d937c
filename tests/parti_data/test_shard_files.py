import hashlib
import os
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parti_data import checked_files
from parti_data.errors import ShardError
from parti_data.manifest import Beginning, begin, record_shard, shard_name
from parti_data.shard_cache import CacheOptions
from parti_data.shard_files import ShardFiles
from parti_data.storage import publish_bytes, remove
from parti_data.token_directory import TokenDirectory, open_token_directory
from parti_data.token_shard import TokenRow, to_table, write_token_shard

NUM_SHARDS, SIZE = 5, 3_000
CONTENTS = [random.Random(number).randbytes(SIZE) for number in range(NUM_SHARDS)]
MEMORY = "memory://faults"
DAMAGES = ("truncated", "flipped", "deleted", "swapped", "emptied", "longer")


@pytest.fixture
def options(tmp_path) -> CacheOptions:
    return CacheOptions(path=f"{tmp_path}/cache", first_wait_s=0)


def read(files: ShardFiles, number: int) -> bytes:
    with files.open(number) as file:
        return file.read()


def write_token_directory(path: str, metadata, num_shards: int, rows_per_shard: int) -> str:
    directory, records = begin(path, Beginning(stage="tokenize", config={}, inputs={})), []
    for number in range(num_shards):
        rows = [
            TokenRow(f"{number}-{row}", 0, [0, 0, 1, 1], False, ["a"], [[3]], np.arange(4), "made up", str(row))
            for row in range(rows_per_shard)
        ]
        name = shard_name("tokens", number, num_shards, "parquet")
        write_token_shard(f"{path}/{name}", to_table(rows, metadata), metadata)
        records.append(record_shard(path, name, rows_per_shard))
    directory.finish(records, {}, {"metadata": metadata.model_dump(mode="json")})
    return path


@pytest.mark.parametrize("place", ["disk", "url of a disk", "memory"])
def test_the_shards_of_a_token_directory_are_opened(tmp_path, made_up_metadata, options, place):
    roots = {"disk": str(tmp_path), "url of a disk": f"file://{tmp_path}", "memory": "memory://shard-files"}
    path = write_token_directory(f"{roots[place]}/tokens", made_up_metadata, 3, 7)
    files = ShardFiles(open_token_directory(path), options)
    for number in range(3):
        with files.open(number) as file:
            assert pq.read_table(file).column("key").to_pylist() == [f"{number}-{row}" for row in range(7)]
    assert (Path(str(options.path)) / "shards").exists() == (place == "memory")


def test_a_local_shard_is_opened_in_place(tmp_path, shards_of, options):
    directory = shards_of(f"{tmp_path}/tokens", CONTENTS)
    with ShardFiles(directory, options).open(2) as file:
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(directory.shard_path(2)))


def damage_shard(directory: TokenDirectory, number: int, damage: str, rng: random.Random) -> set[int]:
    """Return which shards are bad now."""
    path, content = directory.shard_path(number), bytearray(CONTENTS[number])
    if damage == "swapped":
        other = (number + rng.randrange(1, NUM_SHARDS)) % NUM_SHARDS
        publish_bytes(path, CONTENTS[other])
        publish_bytes(directory.shard_path(other), bytes(content))
        return {number, other}
    if damage == "deleted":
        remove(path)
        return {number}
    if damage == "flipped":
        content[rng.randrange(SIZE)] ^= 1 << rng.randrange(8)
    elif damage == "truncated":
        del content[rng.randrange(1, SIZE) :]
    elif damage == "emptied":
        content.clear()
    else:
        content += rng.randbytes(rng.randrange(1, 100))
    if rng.random() < 0.5 and path.startswith("/"):
        Path(path).write_bytes(content)  # into the same inode
    else:
        publish_bytes(path, bytes(content))
    return {number}


@pytest.mark.parametrize(("place", "faults"), [("disk", 200), ("memory", 200), ("s3", 12)])
def test_every_fault_is_found_and_named_and_no_bad_shard_is_opened(
    tmp_path, request, shards_of, monkeypatch, place, faults
):
    monkeypatch.setattr(checked_files, "_SETTLED_S", 0.02)  # more than a step of the kernel's clock
    root = request.getfixturevalue("s3").new_bucket() if place == "s3" else {"disk": tmp_path, "memory": MEMORY}[place]
    directory = shards_of(f"{root}/tokens", CONTENTS)
    rng, found = random.Random(0), Counter()
    for fault in range(faults):
        cache = f"{tmp_path}/cache" if place == "disk" else f"{tmp_path}/cache-{fault}"  # a copy would hide it
        files = ShardFiles(directory, CacheOptions(path=cache, first_wait_s=0))
        damage = DAMAGES[fault % len(DAMAGES)]
        bad = damage_shard(directory, rng.randrange(NUM_SHARDS), damage, rng)
        for number in [*bad, (max(bad) + 1) % NUM_SHARDS]:
            if number in bad:
                with pytest.raises(ShardError, match=f"/{directory.shards[number].name}: expected "):
                    files.open(number)
                found[damage] += 1
            else:
                assert read(files, number) == CONTENTS[number]
        for number in bad:
            publish_bytes(directory.shard_path(number), CONTENTS[number])
            assert read(files, number) == CONTENTS[number]
    assert set(found) == set(DAMAGES)
    assert sum(found.values()) >= faults


@pytest.mark.parametrize(
    ("name", "sha256"),
    [("../secret", "0" * 64), ("/etc/passwd", "0" * 64), ("a\0b", "0" * 64), ("a", "../../x"), ("a", "0" * 64 + "\n")],
)
def test_a_manifest_that_leads_to_other_folders_is_refused(tmp_path, shards_of, options, name, sha256):
    directory = shards_of(f"{tmp_path}/tokens", CONTENTS[:1])
    shard = directory.shards[0].model_copy(update={"name": name, "sha256": sha256})
    directory.manifest.shards[0] = shard
    expected = (
        "/tokens/manifest.json: expected shards by file name and SHA-256, found .* with .*; get the directory anew"
    )
    with pytest.raises(ShardError, match=expected):
        ShardFiles(directory, options).open(0)


def test_it_can_be_sent_to_another_process(tmp_path, shards_of, options):
    for root in (str(tmp_path), "memory://pickled"):
        files = ShardFiles(shards_of(f"{root}/tokens", CONTENTS), options)
        assert read(pickle.loads(pickle.dumps(files)), 1) == CONTENTS[1]


def test_opening_costs_no_request_before_a_shard_is_asked_for(s3, shards_of, options):
    directory = shards_of(f"{s3.new_bucket()}/tokens", CONTENTS)
    s3.requests.clear()
    files = ShardFiles(directory, options)
    assert s3.requests == []
    read(files, 0)
    s3.requests.clear()
    assert hashlib.sha256(read(files, 0)).hexdigest() == directory.shards[0].sha256
    assert s3.requests == []
