"""Faults injected into real runs: whatever happens, every row of the source ends in the ledger once."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.errors import ShardError, SourceError
from parti_data.ledger import PairDirectory
from parti_data.manifest import MANIFEST, read_manifest
from parti_data.sources import ParquetSource, WebDatasetSource, webdataset
from parti_data.storage import list_directory
from pipelines.command_line import main
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.verify import verify

PARTI = [sys.executable, "-m", "pipelines.command_line"]
ROOT = Path(__file__).parents[2]
UNREADABLE = ("source_unreadable",)
LONG = ["source.num_pairs=1200", "source.side_px=64", "source.pairs_per_split=200", "source.spoil_every=50"]
NUM_TARS, ROWS = 5, 3


@pytest.fixture
def tars(tmp_path, make_tar, plain_png) -> Path:
    """Tars of three pairs each; the first image of all of them is the same."""
    for tar in range(NUM_TARS):
        members = []
        for row in range(ROWS):
            image = plain_png(10 * tar + row if row else 200)
            members += [(f"{tar}-{row}.png", image), (f"{tar}-{row}.txt", f"text {tar} {row}".encode())]
        make_tar(f"tars/{tar}.tar", members)
    return tmp_path / "tars"


@pytest.fixture
def make(tmp_path):
    """The config that filters the tars into a directory."""

    def make(name: str, **changes) -> FilterConfig:
        source = WebDatasetSource(kind="webdataset", path=f"{tmp_path}/tars")
        return FilterConfig(output=f"{tmp_path}/{name}", source=source, **changes)

    return make


@pytest.fixture
def run(beam_options):
    return lambda config, *others: filter_pairs(config, beam_options(), *others)


def assert_every_row_ends_once(directory: str, expected: set[str]) -> None:
    rows = list(PairDirectory(directory).ledger())
    assert Counter(row.source_key for row in rows if row.reason not in UNREADABLE) == dict.fromkeys(expected, 1)
    counts = read_manifest(directory).counts
    assert counts["kept"] + counts["merged"] + counts["dropped"] == counts["read"] == len(rows)
    assert counts == {"read": len(rows), "kept": 0, "merged": 0, "dropped": 0} | Counter(row.outcome for row in rows)
    verify(directory)


def keys(*numbers: int) -> set[str]:
    return {f"{tar}-{row}" for tar in numbers for row in range(ROWS)}


def cut_short(path: Path) -> None:
    os.truncate(path, 540)


def put_noise(path: Path) -> None:
    path.write_bytes(bytes(range(1, 256)) * 10)


@pytest.mark.parametrize("policy", ["fail", "skip"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [(cut_short, r"expected \d+ bytes at least, found 540 \(cut short in member '2-0.png'"),
     (Path.unlink, "expected to read it to its end, found No such file or directory; mend that and run the same comm")],
)  # fmt: skip
def test_a_file_that_breaks_while_the_run_is_at_work_loses_nothing(
    tars, make, run, contents, monkeypatch, fault, message, policy
):
    """A file that is gone ends the run even where broken ones are skipped: tomorrow it may be there."""
    run(make("whole"))
    whole = (tars / "2.tar").read_bytes()
    read = WebDatasetSource.read
    with monkeypatch.context() as patch:
        patch.setattr(
            WebDatasetSource, "read", lambda *given: (given[1].number == 2 and fault(tars / "2.tar"), read(*given))[1]
        )
        if policy == "skip" and fault is cut_short:
            run(make("out", on_bad_split="skip"))
            assert_every_row_ends_once(make("out").output, keys(0, 1, 3, 4))
        else:
            with pytest.raises(SourceError, match=rf"^{tars}/2.tar: {message}") as error:
                run(make("out", on_bad_split=policy))
            assert "\n" not in str(error.value)
            assert MANIFEST not in list_directory(make("out").output)
    (tars / "2.tar").write_bytes(whole)
    run(make("out"), False, UNREADABLE if MANIFEST in list_directory(make("out").output) else ())
    assert_every_row_ends_once(make("out").output, keys(*range(NUM_TARS)))
    assert contents(make("out").output) == contents(make("whole").output)


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_disk_that_fails_is_told_in_one_line_and_never_taken_for_a_broken_file(
    tars, make, run, contents, monkeypatch, policy
):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "read_json", fail)
        with pytest.raises(SourceError, match=r"\d.tar: expected to read it to its end, found Input/output error; "):
            run(make("out", on_bad_split=policy))
    run(make("out", on_bad_split=policy))
    assert_every_row_ends_once(make("out").output, keys(*range(NUM_TARS)))


def test_broken_files_are_skipped_on_request_and_read_when_they_are_mended(tars, make, run, contents):
    run(make("whole"))
    good = {tar: (tars / f"{tar}.tar").read_bytes() for tar in (1, 3)}
    cut_short(tars / "1.tar")
    put_noise(tars / "3.tar")
    with pytest.raises(SourceError, match=r"(1.tar: expected \d+ bytes|3.tar: expected a whole tar)"):
        run(make("out"))
    manifest = run(make("out", on_bad_split="skip"))
    assert_every_row_ends_once(make("out").output, keys(0, 2, 4))
    assert manifest.counts == {"read": 11, "kept": 7, "merged": 2, "dropped": 2}
    assert [split["path"] for split in manifest.details["skipped"]] == [f"{tars}/1.tar", f"{tars}/3.tar"]
    assert "cut short in member '1-0.png'" in manifest.details["skipped"][0]["error"]
    broken = [row for row in PairDirectory(make("out").output).ledger() if row.reason in UNREADABLE]
    assert [(row.source, row.detail) for row in broken] == [
        (s["path"], s["error"]) for s in manifest.details["skipped"]
    ]
    (tars / "1.tar").write_bytes(good[1])
    with pytest.raises(SourceError, match="3.tar: expected a whole tar"):
        run(make("out"), False, UNREADABLE)
    manifest = run(make("out", on_bad_split="skip"))  # goes on with the retry that failed
    assert [split["path"] for split in manifest.details["skipped"]] == [f"{tars}/3.tar"]
    (tars / "3.tar").write_bytes(good[3])
    run(make("out"), False, UNREADABLE)
    assert_every_row_ends_once(make("out").output, keys(*range(NUM_TARS)))
    assert contents(make("out").output) == contents(make("whole").output)


def test_what_a_broken_file_leaves_does_not_depend_on_how_far_it_could_be_read(tmp_path, run, plain_png):
    folder = tmp_path / "parquet"
    folder.mkdir()
    for number in range(2):
        rows = range(10 * number, 10 * number + 10)
        texts = [f"text {row}" for row in rows]
        columns = {"image": [plain_png(row) for row in rows], "text": texts}
        pq.write_table(
            pa.table(columns),
            folder / f"{number}.parquet",
            row_group_size=2,
            use_dictionary=False,
            write_page_checksum=True,
        )
    path = folder / "1.parquet"
    last = pq.ParquetFile(path).metadata.row_group(4).column(0)
    with path.open("r+b") as file:
        file.seek(last.data_page_offset + last.total_compressed_size - 40)
        file.write(b"\xff" * 30)
    source = ParquetSource(kind="parquet", path=str(folder))
    config = FilterConfig(output=f"{tmp_path}/out", source=source, on_bad_split="skip")
    with pytest.raises(SourceError, match="1.parquet: expected a whole Parquet file"):
        run(config.model_copy(update={"on_bad_split": "fail"}))
    run(config)
    rows = list(PairDirectory(config.output).ledger())
    assert [row.reason for row in rows[10:]] == ["source_unreadable"]
    assert_every_row_ends_once(config.output, {f"{row:08d}" for row in range(10)})


def test_too_many_broken_files_are_refused(tars, make, run):
    for tar in range(3):
        cut_short(tars / f"{tar}.tar")
    message = (
        r"expected at most 2 of 5 files skipped, found 3 \(.*/0.tar: expected .* .cut short .*\); mend them and add"
    )
    with pytest.raises(SourceError, match=message):
        run(make("out", on_bad_split="skip"))
    with pytest.raises(SourceError, match="expected at most 0 of 5 files skipped, found 3"):
        run(make("out"))
    assert run(make("out", on_bad_split="skip", max_dropped_fraction=0.6)).counts["dropped"] == 3


def test_the_command_says_which_files_it_skipped(tars, capsys):
    put_noise(tars / "3.tar")
    with pytest.raises(SystemExit) as end:
        main(["filter", "source.kind=webdataset", f"source.path={tars}", f"output={tars}/out", "on_bad_split=skip"])
    counts, skipped = capsys.readouterr().out.splitlines()
    assert (end.value.code, counts) == (0, "filter: 1 dropped, 9 kept, 3 merged, 13 read")
    assert skipped.startswith(f"filter: 1 of 5 files skipped ({tars}/3.tar: expected a whole tar, found ")
    assert skipped.endswith("; once they are mended, add --retry-reason source_unreadable")


def test_no_room_to_unpack_a_tar_is_no_fault_of_the_tar(tars, make, run, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tars / "0.tar").rename(tars / "0.tar.gz")
    monkeypatch.setattr("parti_data.sources.unpacked_tar._copy", fail)
    with pytest.raises(ShardError, match="0.tar.gz: expected room to unpack it"):
        run(make("out", on_bad_split="skip"))


def test_one_broken_image_in_a_thousand_costs_one_row(tmp_path, make_tar, plain_png, run):
    """Where peers lose a batch. The bytes differ by a comment, so that nothing is merged."""
    members = []
    for row in range(1000):
        image = b"broken" if row == 500 else plain_png(row % 256) + b"%d" % row
        members += [(f"{row}.png", image), (f"{row}.txt", f"text {row}".encode())]
    source = WebDatasetSource(kind="webdataset", path=make_tar("x.tar", members))
    manifest = run(FilterConfig(output=f"{tmp_path}/out", source=source))
    assert manifest.details["reasons"] == {"kept": 999, "dropped image_unreadable": 1}


def run_to_the_end(output: Path) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(["filter", f"output={output}", *LONG])


@pytest.fixture(scope="module")
def long_run(tmp_path_factory, contents) -> dict[str, bytes]:
    """What a run leaves that nobody stopped."""
    output = tmp_path_factory.mktemp("long") / "out"
    run_to_the_end(output)
    return contents(output)


@pytest.fixture
def begin_long_run():
    """Begin a run, and return when it is at work on its first file; what a failed test leaves of it is killed."""
    begun = []

    def begin(output: Path, *options: str) -> subprocess.Popen:
        command = [*PARTI, "filter", f"output={output}", *LONG, "--", *options]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"TMPDIR": str(output.parent)},
        )  # fmt: skip
        begun.append(process)
        until = time.monotonic() + 120
        while not [name for name in list_directory(f"{output}/measured") if re.match(r"split-.*\.tmp-", name)]:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.01)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_so_in_one_line_and_goes_on_later(
    tmp_path, long_run, begin_long_run, contents, workers, number, code
):
    process = begin_long_run(tmp_path / "out", f"--direct_num_workers={workers}")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert err == "stopped; run the same command again to go on, what is finished is kept\n"
    assert list_directory(str(tmp_path)) == ["out"]  # nothing of Beam's where temporary files go
    left = contents(tmp_path / "out")
    assert MANIFEST not in left
    assert not [name for name in left if ".tmp-" in name]
    run_to_the_end(tmp_path / "out")
    assert contents(tmp_path / "out") == long_run


def test_ctrl_c_ends_worker_processes_soon_and_in_one_line(tmp_path, begin_long_run):
    process = begin_long_run(tmp_path / "out", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=10)  # ends when no worker holds its end of the pipe
    assert (process.returncode, out) == (130, "")
    assert err == "stopped; run the same command again to go on, what is finished is kept\n"


def test_a_worker_process_that_is_killed_ends_the_run_in_one_line(tmp_path, long_run, begin_long_run, contents):
    process = begin_long_run(tmp_path / "out", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    children = psutil.Process(process.pid).children(recursive=True)
    assert [child.cmdline()[0] for child in children] == [sys.executable] * 2
    children[0].kill()
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - began < 30
    assert err == (
        "error: a worker process: expected it to work to the end, found it gone (killed, most often for want of memory)"
        "; free memory or use fewer workers, then run the same command again\n"
    )
    run_to_the_end(tmp_path / "out")
    assert contents(tmp_path / "out") == long_run
