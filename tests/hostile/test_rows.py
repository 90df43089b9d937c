"""All hostile rows through the filter stage at once, and all hostile images through a child that may use little."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hostile_captions import CAPTIONS, JSON
from hostile_images import LIMITS, hostile_images
from hostile_tars import DEVICE, END, SYMLINK, member
from image_files import png, tiff

from parti_data.images import Drop, inspect
from parti_data.ledger import PairDirectory
from parti_data.sources import WebDatasetSource
from pipelines.filter import FilterConfig, filter_pairs

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("decode_under_limits.py")
Row = tuple[list[tuple[str, bytes]], str, str, list[str] | None]
"""Members by extension, outcome, reason, and the captions where they are told."""


def reason_of(caption: str) -> str:
    """What the rules say of a clean caption."""
    by_length = {0: "caption_missing", 1: "caption_too_short"}
    return by_length.get(len(caption), "caption_too_long" if len(caption) > 2000 else "")


@pytest.fixture(scope="module")
def images() -> dict[str, tuple[bytes, str]]:
    return hostile_images()


@pytest.fixture(scope="module")
def rows(images) -> dict[str, Row]:
    """Every row by its key, which names no path that could be one."""
    found: dict[str, Row] = {}
    for number, (name, (content, reason)) in enumerate(images.items()):
        row = [("png", content), ("txt", b"picture number %d" % number)]
        found[f"image {number}: {name}"] = (row, "dropped" if reason else "kept", reason, None)
    for number, (name, (content, expected)) in enumerate(CAPTIONS.items()):
        reason = reason_of(expected)
        row = [("png", png(1000 + number)), ("txt", content)]
        found[f"caption {number}: {name}"] = (row, "dropped" if reason else "kept", reason, [expected] * bool(expected))
    for number, (name, (content, captions)) in enumerate(JSON.items()):
        reasons = [reason_of(caption) for caption in captions or [""]]
        reason = "" if "" in reasons else reasons[0]
        row = [("png", png(2000 + number)), ("json", content)]
        found[f"json {number}: {name}"] = (row, "dropped" if reason else "kept", reason, None)
    found["no image"] = ([("txt", b"alone")], "dropped", "image_missing", ["alone"])
    found["no caption"] = ([("png", png(3000))], "dropped", "caption_missing", [])
    found["the same bytes again"] = (
        [("png", png(30)), ("gif", tiff(1)), ("txt", b"first")], "kept", "", ["first", "second"],
    )  # fmt: skip
    found["and again"] = ([("tiff", png(30)), ("txt", b"second")], "merged", "exact_duplicate", None)
    return {name.replace(".", "").replace("/", ""): row for name, row in found.items()}


def test_every_hostile_row_ends_once_with_its_reason(rows, tmp_path, beam_options, capfd, caplog):
    tar = b"".join(
        member(f"{name}.{extension}".encode(), content)
        for name, (members, *_) in rows.items()
        for extension, content in members
    )
    odd = member(b"link.png", kind=SYMLINK, linkname=b"/etc/passwd") + member(b"device.png", kind=DEVICE)
    (tmp_path / "x.tar").write_bytes(odd + tar + END)
    config = FilterConfig(
        output=str(tmp_path / "out"), source=WebDatasetSource(kind="webdataset", path=str(tmp_path / "x.tar")),
        limits=LIMITS, max_dropped_fraction=1.0,
    )  # fmt: skip
    capfd.readouterr()
    manifest = filter_pairs(config, beam_options())
    told = capfd.readouterr()
    assert not [line for line in told.err.splitlines() if not line.startswith(("measure", "judge"))]
    assert told.out == ""
    assert not [record for record in caplog.records if record.name.startswith("PIL")]
    ledger = {row.source_key: row for row in PairDirectory(config.output).ledger()}
    assert {name: (row.outcome, row.reason) for name, row in ledger.items()} == {
        name: (outcome, reason) for name, (_, outcome, reason, _) in rows.items()
    }
    for name, (_, _, _, captions) in rows.items():
        assert captions is None or ledger[name].captions == captions, name
    counts = Counter(row.outcome for row in ledger.values())
    assert manifest.counts == {"read": len(rows), **counts}
    assert len(rows) >= 250
    assert counts["kept"] + counts["merged"] + counts["dropped"] == len(rows)


def test_header_and_pixels_of_a_hostile_image_agree(images):
    for name, (content, reason) in images.items():
        header, picture = inspect(content, LIMITS)
        if reason:
            assert isinstance(picture, Drop), name
            assert picture.detail.isprintable(), name
        else:
            assert picture.size == header[:2], name


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of a process's memory")
def test_each_hostile_image_is_decoded_in_little_memory_and_time(images, tmp_path):
    for number, (content, _) in enumerate(images.values()):
        (tmp_path / f"{number:04d}").write_bytes(content)
    child = subprocess.run(
        [sys.executable, "-W", "error", str(CHILD), str(tmp_path)], capture_output=True, text=True, timeout=120,
        cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{CHILD.parent}", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.splitlines() == [reason for _, reason in images.values()]
