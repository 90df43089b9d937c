"""The stages where source, output and tokenizers lie on S3 or GCS: the same bytes as on a local disk."""

import gzip
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from parti_data import object_stores, storage
from parti_data.claim import LEASE, LeaseTimes, claim
from parti_data.errors import ShardError, SourceError
from parti_data.ledger import FETCHES_AT_ONCE, PairDirectory
from parti_data.manifest import BEGUN, MANIFEST, read_manifest
from parti_data.quality import QualityFloors
from parti_data.rules import Rules
from parti_data.sources import WebDatasetSource
from parti_data.storage import file_size, list_directory, publish_bytes, read_bytes
from parti_data.token_shard import ShardMetadata, TokenRow, read_row_group, to_table, write_tables
from pipelines.command_line import main
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.shard import ShardConfig
from pipelines.tokenize import TokenizeConfig
from pipelines.verify import verify

FINISHED = {"filter": "filtered", "shard": "sharded", "tokenize": "tokens"}


def test_each_stage_gives_the_bytes_of_the_local_run(
    store, request, make_config, run_stage, contents, image_file, text_file
):
    bucket = store.new_bucket()
    publish_bytes(f"{bucket}/image", Path(image_file).read_bytes())
    publish_bytes(f"{bucket}/text", Path(text_file).read_bytes())
    elsewhere = {
        "filter": {},
        "shard": {"source": f"{bucket}/filter"},
        "tokenize": {
            "source": f"{bucket}/filter",
            "image_tokenizer": f"{bucket}/image",
            "text_tokenizer": f"{bucket}/text",
        },
    }
    for stage, changes in elsewhere.items():
        output = f"{bucket}/{stage}"
        with claim(output, LeaseTimes(settle_s=0)):
            run_stage(make_config(stage, output, **changes))
        expected, found = contents(request.getfixturevalue(FINISHED[stage])), store.contents(output)
        assert found.keys() == expected.keys()
        different = [name for name in expected if found[name] != expected[name]]
        if stage != "tokenize":
            assert different == []
        else:  # its manifest alone says where the sources were
            assert different == [MANIFEST]
            manifests = [json.loads(files[MANIFEST]) for files in (expected, found)]
            assert manifests[1]["details"].pop("places") == changes
            manifests[0]["details"].pop("places")
            assert manifests[0] == manifests[1]
        assert f"{len(read_manifest(output).shards)} files of {stage} as the manifest says" in verify(output)[0]
    assert "rows encoded again, all ids equal" in verify(f"{bucket}/tokenize")[-1]


@pytest.fixture
def tars(store, sharded) -> str:
    """Tars of pairs as a source on the store; the URL of their directory."""
    url = f"{store.new_bucket()}/source"
    for tar in Path(sharded).glob("*.tar"):
        publish_bytes(f"{url}/{tar.name}", tar.read_bytes())
    return url


def source_of(path: str) -> WebDatasetSource:
    return WebDatasetSource(kind="webdataset", path=path)


def test_tars_on_a_store_give_what_tars_on_a_disk_give_but_for_their_place(
    store, tars, tmp_path, sharded, run_stage, image_file, text_file, contents
):
    bucket = tars.removesuffix("/source")
    for root, source in ((str(tmp_path), sharded), (bucket, tars)):
        run_stage(FilterConfig(output=f"{root}/filter", source=source_of(source)))
        run_stage(ShardConfig(output=f"{root}/shard", source=f"{root}/filter", pairs_per_shard=20))
        run_stage(
            TokenizeConfig(
                output=f"{root}/tokenize", source=f"{root}/shard", image_tokenizer=image_file,
                text_tokenizer=text_file, rows_per_shard=25, quality=QualityFloors(min_psnr_db=0.0),
            )
        )  # fmt: skip
    for stage in ("filter", "shard", "tokenize"):
        here, there = contents(f"{tmp_path}/{stage}"), store.contents(f"{bucket}/{stage}")
        assert here.keys() == there.keys()
        for name in here.keys() - {MANIFEST, BEGUN}:
            assert read_without_place(name, there[name], tars) == read_without_place(name, here[name], sharded), name
        counts = [json.loads(files[MANIFEST])["counts"] for files in (here, there)]
        assert counts[0] == counts[1]


def read_without_place(name: str, content: bytes, place: str) -> object:
    """Return all that a file says, with its source's directory as "SOURCE" wherever it stands."""
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            members = [(member, tar.extractfile(member).read()) for member in tar]
        return [(member.name, member.mode, held.replace(place.encode(), b"SOURCE")) for member, held in members]
    if name == "measured/splits.json":  # a disk's mark of a file is its size, a store's its digest too
        splits = map(json.loads, content.replace(place.encode(), b"SOURCE").splitlines())
        return [[*split[:-1], split[-1][0]] for split in splits]
    if not name.endswith(".parquet"):
        return content
    table = pq.read_table(io.BytesIO(content))
    rows = json.loads(json.dumps(table.to_pylist(), default=bytes.hex).replace(json.dumps(place)[1:-1], "SOURCE"))
    metadata = json.loads((table.schema.metadata or {}).get(b"parti", b"{}"))
    metadata.pop("input_digest", None)  # of a manifest that says where its source lies
    return rows, table.schema.remove_metadata(), metadata


def test_of_a_fragment_a_row_group_is_downloaded_and_little_more(s3, tmp_path, monkeypatch):
    metadata = ShardMetadata(
        image_tokenizer="a", image_tokenizer_name="vit_vqgan", codebook_size=8192, grid_side=16, image_side=32,
        resize_recipe="r", resize_library="p", precision="float32", text_tokenizer="b", text_vocabulary_size=64,
        config_digest="c", input_digest="d",
    )  # fmt: skip
    codes = np.random.default_rng(0).integers(0, 8192, (1000, 256))
    rows = [TokenRow(f"{n:032x}", 0, [0, 0, 8, 8], False, ["x"], [[1]], codes[n], "s", "k") for n in range(1000)]
    path = f"{s3.new_bucket()}/fragment.parquet"
    write_tables(path, [to_table(rows, metadata)] * 20, metadata)
    sizes, fetch = [], object_stores._fetch

    def fetch_and_tell(*arguments):
        content = fetch(*arguments)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(object_stores, "_fetch", fetch_and_tell)
    assert len(read_row_group(path, 3)) == 1000
    assert sum(sizes) < 2 * file_size(path) / 20 + (1 << 19)


def test_two_workers_on_a_store_write_the_bytes_of_one(store, tars, run_stage):
    bucket = tars.removesuffix("/source")
    for workers in (1, 2):
        run_stage(
            FilterConfig(output=f"{bucket}/{workers}", source=source_of(tars)), f"--direct_num_workers={workers}"
        )  # fmt: skip
    assert store.contents(f"{bucket}/1") == store.contents(f"{bucket}/2")


def test_rejudging_on_a_store_reads_no_image(s3, sharded, beam_options):
    bucket = s3.new_bucket()
    s3.upload(sharded, f"{bucket}/source")
    config = FilterConfig(output=f"{bucket}/out", source=source_of(f"{bucket}/source"))
    filter_pairs(config, beam_options())
    measured = {name: content for name, content in s3.contents(config.output).items() if name.startswith("measured/")}
    s3.requests.clear()
    stricter = config.model_copy(update={"rules": Rules(min_side_px=33), "max_dropped_fraction": 1.0})
    manifest = filter_pairs(stricter, beam_options(), rejudge=True)
    assert manifest.counts["dropped"] > 0
    assert [request for request in s3.requests if request.startswith("GET") and ".tar" in request] == []
    after = s3.contents(config.output)
    assert measured == {name: content for name, content in after.items() if name.startswith("measured/")}


def test_an_image_costs_one_request(s3, sharded):
    bucket = s3.new_bucket()
    s3.upload(sharded, f"{bucket}/pairs")
    pairs = PairDirectory(f"{bucket}/pairs")
    rows = list(pairs.kept())
    s3.requests.clear()
    for row in rows:
        pairs.fetch(row)
    assert len(s3.requests) == len(rows) == 72
    assert all(request.startswith("GET") for request in s3.requests)


def test_images_are_fetched_several_at_a_time_and_come_in_order(s3, sharded):
    bucket = s3.new_bucket()
    s3.upload(sharded, f"{bucket}/pairs")
    here, there = PairDirectory(sharded), PairDirectory(f"{bucket}/pairs")
    rows, expected = list(there.kept()), [image for _, image in here.fetch_each(here.kept())]
    at_once, most, counting = 0, 0, threading.Lock()

    def wait(_: str) -> None:
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with counting:
            at_once -= 1

    s3.fault = wait
    fetched = list(there.fetch_each(rows))
    assert [row for row, _ in fetched] == rows
    assert [image for _, image in fetched] == expected
    assert FETCHES_AT_ONCE // 2 <= most <= FETCHES_AT_ONCE


def test_images_of_plain_and_compressed_tars_come_in_order(tars_on_s3, run_stage):
    source, output = tars_on_s3
    plain = list_directory(source)[0]
    publish_bytes(f"{source}/zipped.tar.gz", gzip.compress(read_bytes(f"{source}/{plain}")))
    run_stage(FilterConfig(output=output, source=source_of(source)))
    pairs = PairDirectory(output)
    rows = [row._replace(path=f"{source}/{name}") for row in pairs.kept() for name in (plain, "zipped.tar.gz")
            if row.path.endswith(plain)]  # fmt: skip
    assert len(rows) > 20
    assert [row for row, _ in pairs.fetch_each(rows)] == rows


def test_a_lease_is_no_part_of_a_directory(s3, make_config, run_stage):
    bucket = s3.new_bucket()
    output = f"{bucket}/out"
    with claim(output, LeaseTimes(settle_s=0)):
        run_stage(make_config("filter", output))
        assert LEASE in list_directory(output)
        assert all(shard.name != LEASE for shard in read_manifest(output).shards)
        assert "files of filter as the manifest says" in verify(output)[0]
        storage.sweep(output)
        assert run_stage(make_config("filter", output)) == read_manifest(output)
    assert LEASE not in list_directory(output)


@pytest.fixture
def tars_on_s3(s3, sharded) -> tuple[str, str]:
    """A source and a place for an output."""
    bucket = s3.new_bucket()
    for tar in Path(sharded).glob("*.tar"):
        publish_bytes(f"{bucket}/source/{tar.name}", tar.read_bytes())
    return f"{bucket}/source", f"{bucket}/out"


def test_a_source_that_changed_between_two_runs_is_refused_and_shown(s3, tars_on_s3, run_stage):
    source, output = tars_on_s3
    config = FilterConfig(output=output, source=source_of(source))
    before = run_stage(config).inputs["source"]
    name = list_directory(source)[0]
    content = bytearray(read_bytes(f"{source}/{name}"))
    content[-1] ^= 1  # in the padding: as large as before
    publish_bytes(f"{source}/{name}", bytes(content))
    with pytest.raises(ShardError, match=rf"\(input source: begun with '{before}', now '[0-9a-f]{{64}}'\); change it"):
        run_stage(config)
    content[-1] ^= 1
    publish_bytes(f"{source}/{name}", bytes(content))
    assert run_stage(config) == read_manifest(output)


def test_a_source_that_changes_while_filter_reads_is_refused_and_not_measured(
    tars_on_s3, run_stage, monkeypatch
):  # fmt: skip
    source, output = tars_on_s3
    last, uploaded = f"{source}/{list_directory(source)[-1]}", []

    def upload_and_change(*arguments) -> None:
        upload(*arguments)
        uploaded.append(arguments[-1])
        if "split-00000" in arguments[-1]:
            content = bytearray(read_bytes(last))
            content[600] ^= 1  # of the first member's data
            fsspec.filesystem("s3").pipe_file(last, bytes(content))

    upload = storage.upload
    monkeypatch.setattr(storage, "upload", upload_and_change)
    with pytest.raises(SourceError, match=f"{last}: expected the file as it was when the run began, found it"):
        run_stage(FilterConfig(output=output, source=source_of(source)))
    assert any("split-00000" in path for path in uploaded)
    assert not any("split-00003" in path for path in uploaded)


@pytest.mark.parametrize("stage", ["shard", "tokenize"])
def test_a_source_that_changed_after_filter_is_refused_by_the_next_stage(s3, tars_on_s3, stage, make_config, run_stage):
    source, output = tars_on_s3
    run_stage(FilterConfig(output=output, source=source_of(source)))
    row = next(PairDirectory(output).kept())
    content = bytearray(read_bytes(row.path))
    content[row.offset + row.size // 2] ^= 1
    publish_bytes(row.path, bytes(content))
    expected = rf"{row.path} at {row.offset}: expected image {row.key}, found other bytes; the source changed since"
    with pytest.raises(SourceError, match=expected):
        run_stage(make_config(stage, f"{output}-next", source=output))
    storage.remove(row.path)
    with pytest.raises(SourceError, match=rf"{row.path}: expected the tar that filter read, found none; put it back"):
        run_stage(make_config(stage, f"{output}-next", source=output))


RUN = """
import sys
from parti_data import claim
from pipelines.command_line import main
claim.LeaseTimes.__new__.__defaults__ = (2.0, 0.2, 0.0)
main(sys.argv[1:])
"""


def test_a_run_killed_while_it_uploads_is_refused_for_a_while_and_then_ends_with_the_same_bytes(
    s3, filtered, contents, capsys
):
    output, held = f"{s3.new_bucket()}/out", []

    def hold(request: str) -> None:
        if request.startswith("PUT") and "ledger-00001" in request:
            held.append(request)
            time.sleep(1)

    s3.fault = hold
    settings = ["source.num_pairs=96", "source.side_px=32", "source.spoil_every=4", "source.pairs_per_split=32"]
    command = ["filter", f"output={output}", *settings, "--", "--direct_num_workers=1"]
    with subprocess.Popen([sys.executable, "-c", RUN, *command], env=s3.environment()) as child:
        while not held and child.poll() is None:
            time.sleep(0.01)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    s3.fault = lambda request: None
    with pytest.raises(SystemExit, match="1"):
        main(command)
    refusal = capsys.readouterr().err
    expected = f"error: {output}: expected no other run in the directory, found process {child.pid} on "
    assert refusal.startswith(expected)
    assert refusal.count("\n") == 1
    left = list_directory(output)
    assert (LEASE in left, BEGUN in left, MANIFEST in left) == (True, True, False)
    time.sleep(2)
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert s3.contents(output) == contents(filtered)


def test_a_run_that_is_stopped_gives_its_lease_back(s3):
    output = f"{s3.new_bucket()}/out"
    settings = ["source.num_pairs=60000", "source.pairs_per_split=1000"]
    command = [sys.executable, "-m", "pipelines.command_line", "filter", f"output={output}", *settings]
    with subprocess.Popen(command, env=s3.environment(), stderr=subprocess.PIPE, text=True) as child:
        while BEGUN not in list_directory(output) and child.poll() is None:
            time.sleep(0.1)
        assert LEASE in list_directory(output)
        child.terminate()
        assert child.stderr is not None
        assert child.stderr.read().endswith("stopped; run the same command again to go on, what is finished is kept\n")
    assert child.returncode == 128 + signal.SIGTERM
    assert LEASE not in list_directory(output)


def test_a_command_that_cannot_write_says_so_in_one_line(s3, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["filter", "output=s3://no-such-bucket/out"])
    refusal = capsys.readouterr().err
    assert refusal.startswith(
        "error: s3://no-such-bucket/out/lease.json: expected to write it, found FileNotFoundError"
    )
    assert refusal.endswith("; make the bucket or choose another output\n")
    assert refusal.count("\n") == 1
