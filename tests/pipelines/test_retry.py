import ast
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parti_data import benchmarks, images, ledger, rules
from parti_data.errors import ConfigError, ShardError, SourceError
from parti_data.images import ImageLimits
from parti_data.ledger import PairDirectory
from parti_data.manifest import MANIFEST
from parti_data.rules import Rules
from parti_data.sources import CocoSource, TableSource, WebDatasetSource, image_folder, table
from parti_data.storage import open_file, read_range
from parti_data.watch import Watched, Watcher
from pipelines import measure_pairs, merge_duplicates
from pipelines.command_line import main
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.measure_pairs import MEASURED_REASONS
from pipelines.retry import RULE_REASONS

MISSING = ("image_missing",)
UNREADABLE = ("source_unreadable",)
ARRIVING = {"1-2.png", "1-3.png", "2-0.png"}


@pytest.fixture
def data(tmp_path, plain_png) -> Path:
    """Three tables of four rows; three images have not arrived, two rows share one, and one is no image."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        names = [f"{number}-{row}.png" for row in range(4)]
        lines = [json.dumps({"file_name": name, "text": f"the picture {name}"}) for name in names]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
        for row, name in enumerate(names):
            if name not in ARRIVING:
                (folder / name).write_bytes(plain_png(10 * number + row))
    (folder / "0-1.png").write_bytes(b"no image")
    shutil.copy(folder / "0-0.png", folder / "1-1.png")
    return folder


@pytest.fixture
def arrive(data, plain_png):
    """The missing images arrive, one of them a copy of another."""

    def arrive() -> None:
        for shade, name in enumerate(sorted(ARRIVING)):
            (data / name).write_bytes(plain_png(100 + shade))
        shutil.copy(data / "0-2.png", data / "1-2.png")

    return arrive


@pytest.fixture
def make(data, tmp_path):
    """The config that filters the tables into a directory."""

    def make(name: str, **changes) -> FilterConfig:
        source = TableSource(kind="table", path=str(data))
        return FilterConfig(output=f"{tmp_path}/{name}", source=source, **{"max_dropped_fraction": 1.0} | changes)

    return make


@pytest.fixture
def run(beam_options):
    return lambda config, *others: filter_pairs(config, beam_options(), *others)


def reasons(directory: str) -> list[str]:
    return [row.reason or row.outcome for row in PairDirectory(directory).ledger()]


def test_images_that_have_arrived_are_read_and_nothing_else_is_opened(make, run, data, arrive, contents, monkeypatch):
    config = make("out")
    run(config)
    assert reasons(config.output).count("image_missing") == 3
    arrive()
    (data / "1-0.png").unlink()  # was read before; a retry does not look
    opened = set()
    monkeypatch.setattr(table, "open_file", lambda path: opened.add(Path(path).name) or open_file(path))
    monkeypatch.setattr(image_folder, "read_range", lambda p, *part: opened.add(Path(p).name) or read_range(p, *part))
    manifest = run(config, False, MISSING)
    assert opened == {"1.jsonl", "2.jsonl"} | ARRIVING
    assert manifest.counts == {"read": 12, "kept": 9, "merged": 2, "dropped": 1}
    assert reasons(config.output)[4:8] == ["kept", "exact_duplicate", "exact_duplicate", "kept"]


def test_a_retry_ends_as_a_run_on_the_mended_source_would_have(make, run, arrive, contents):
    for name, first in (("out", {}), ("judged", {"rules": Rules(min_caption_words=9)})):
        run(make(name, **first))
    arrive()
    run(make("fresh"))
    run(make("out"), False, MISSING)
    run(make("judged"), True, MISSING)
    expected = contents(make("fresh").output)
    assert contents(make("out").output) == contents(make("judged").output) == expected
    assert run(make("out"), False, MISSING).counts["dropped"] == 1
    assert contents(make("out").output) == expected


def test_a_retry_of_a_run_that_failed_for_want_of_its_images_goes_on(make, run, arrive, contents):
    config = make("out", max_dropped_fraction=0.1)
    with pytest.raises(SourceError, match="image_missing 3"):
        run(config)
    arrive()
    run(config, False, MISSING)
    run(make("fresh"))
    assert contents(config.output) == contents(make("fresh").output)


def test_every_kill_in_a_retry_is_mended_by_the_same_command_or_by_one_without_the_flag(
    make, run, arrive, contents, run_child, tmp_path
):
    run(make("begun"))
    arrive()
    run(make("fresh"))
    expected = contents(make("fresh").output)

    def begin(name: str) -> FilterConfig:
        shutil.copytree(make("begun").output, make(name).output)
        return make(name)

    assert run_child("filter", begin("whole"), -1, tmp_path / "moments", (False, MISSING)) == 0
    assert contents(make("whole").output) == expected
    num_moments = int((tmp_path / "moments").read_text())
    assert num_moments == 3 * 11  # retrying, begun, two fragments, splits, three ledgers, manifest, metrics twice
    has_manifest = set()
    for moment in range(0, num_moments, 2):
        config = begin(f"killed-{moment}")
        assert run_child("filter", config, moment, tmp_path / "never", (False, MISSING)) == -9
        has_manifest.add(MANIFEST in contents(config.output))
        run(config, False, MISSING if moment % 4 or moment < 2 else ())
        assert contents(config.output) == expected, moment
    assert has_manifest == {True, False}


def test_a_limit_may_be_raised_for_the_rows_that_it_dropped(make, run, contents):
    limits = {"small": ImageLimits(max_bytes=80), "large": ImageLimits()}
    config = make("out", limits=limits["small"])
    run(config)
    assert reasons(config.output).count("image_too_many_bytes") == 8
    with pytest.raises(ShardError, match="limits.max_bytes: begun with 80, now 33554432"):
        run(make("out"), False, MISSING)
    run(make("out"), False, ("image_too_many_bytes",))
    run(make("fresh"))
    assert contents(config.output) == contents(make("fresh").output)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_bytes": 79}, "image_too_many_bytes"),
        ({"max_pixels": 1 << 40}, "image_too_many_bytes"),
        ({"formats": ["PNG"]}, "image_format_not_allowed"),
        ({"animated": "drop"}, "image_animated"),
        ({"background": "black"}, "image_unreadable"),
        ({"rendering": "as_stored"}, "image_unreadable"),
    ],
)
def test_no_limit_may_change_that_other_rows_were_measured_under(make, run, contents, limits, reason):
    config = make("out", limits=ImageLimits(max_bytes=80))
    run(config)
    before = contents(config.output)
    with pytest.raises(ShardError, match=rf"limits.{next(iter(limits))}: begun with "):
        run(make("out", limits=ImageLimits(**{"max_bytes": 80} | limits)), False, (reason,))
    assert contents(config.output) == before


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"formats": ["JPEG"]}, {}, "image_format_not_allowed"),
        ({"max_pixels": 1023}, {"max_pixels": 1024}, "image_too_many_pixels"),
    ],
)
def test_every_limit_may_be_loosened_for_its_rows(make, run, contents, before, after, reason):
    run(make("out", limits=ImageLimits(**before)))
    run(make("out", limits=ImageLimits(**after)), False, (reason,))
    run(make("fresh", limits=ImageLimits(**after)))
    assert contents(make("out").output) == contents(make("fresh").output)
    assert reasons(make("out").output).count("kept") == 7


@pytest.fixture
def tars(make_tar, plain_png, tmp_path):
    """Three tars of two pairs; in the middle one the second image is broken."""

    def write(number: int, broken: bytes | None = None) -> Path:
        members = []
        for row in range(2):
            image = broken if broken and row else plain_png(10 * number + row)
            members += [(f"{number}-{row}.png", image), (f"{number}-{row}.txt", f"text {number} {row}".encode())]
        return Path(make_tar(f"tars/{number}.tar", members))

    for number in range(3):
        write(number, b"no image" if number == 1 else None)
    return write


@pytest.fixture
def tar_config(tmp_path):
    def make(name: str, **changes) -> FilterConfig:
        source = WebDatasetSource(kind="webdataset", path=f"{tmp_path}/tars")
        return FilterConfig(output=f"{tmp_path}/{name}", source=source, **changes)

    return make


@pytest.mark.parametrize("more", [0, 10240])
def test_a_tar_that_was_written_anew_is_read_whole(tars, tar_config, run, contents, more):
    run(tar_config("out"))
    with tars(1, b"no image").open("ab") as file:
        file.write(bytes(more))
    if more:
        with pytest.raises(ShardError, match="input source: begun with"):
            run(tar_config("out"))
    tars(1)
    run(tar_config("out"), False, ("image_unreadable",))
    run(tar_config("fresh"))
    assert contents(tar_config("out").output) == contents(tar_config("fresh").output)


def test_a_tar_that_ended_the_run_may_be_another_when_it_is_mended(tars, tar_config, run, contents):
    whole = tars(1).read_bytes()
    tars(1).write_bytes(whole[: len(whole) // 3])
    message = r"1.tar: expected .*; download it again; then add --retry-reason source_unreadable"
    with pytest.raises(SourceError, match=message):
        run(tar_config("out"))
    tars(1)
    with pytest.raises(ShardError, match="input source: begun with"):
        run(tar_config("out"))
    run(tar_config("out"), False, ("source_unreadable",))
    run(tar_config("fresh"))
    assert contents(tar_config("out").output) == contents(tar_config("fresh").output)


def test_a_row_that_could_be_used_is_never_lost(tars, tar_config, run, contents, plain_png, make_tar):
    config = tar_config("out")
    run(config)
    old = tars(1, b"no image").read_bytes()
    make_tar("tars/1.tar", [("1-1.png", plain_png(11)), ("1-1.txt", b"text")])
    fragment = Path(config.output, "measured/split-00001.parquet")
    before = fragment.read_bytes()
    message = r"tars/1.tar: expected every row that could be used before, found 1 gone or with another image, such as "
    with pytest.raises(SourceError, match=message + "'1-0'; put that back"):
        run(config, False, ("image_unreadable",))
    assert fragment.read_bytes() == before
    Path(tars(1)).write_bytes(old)
    run(config)
    assert reasons(config.output) == ["kept", "kept", "kept", "image_unreadable", "kept", "kept"]


def test_files_that_changed_without_a_row_to_retry_are_refused(tars, tar_config, run, contents):
    config = tar_config("out")
    run(config)
    before = contents(config.output)
    with tars(0).open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ShardError, match=r"tars/0.tar: expected a file as it was, as none of its rows is retried, "):
        run(config, False, ("image_unreadable",))
    tars(0)
    new = tars(3)
    with pytest.raises(ShardError, match=r"files that it was begun with, found that .*tars/3.tar is new; put it back"):
        run(config, False, ("image_unreadable",))
    new.unlink()
    (new.parent / "2.tar").unlink()
    with pytest.raises(ShardError, match=r"tars/2.tar is gone; put it back, or filter into a new directory"):
        run(config, False, ("image_unreadable",))
    assert contents(config.output) == before


@pytest.mark.parametrize("cut", [slice(0, 2), slice(1, 4)])
def test_a_file_that_changed_at_the_same_size_is_noticed_and_read_whole(make, run, data, contents, cut):
    run(make("out"))
    table_file = data / "1.jsonl"
    lines = table_file.read_text().splitlines()
    kept = [line if line in lines[cut] else "" for line in lines]
    table_file.write_text("\n".join(kept).ljust(table_file.stat().st_size))
    if cut.start:
        with pytest.raises(SourceError, match=r"1.jsonl: expected every row that could be used before, found 1 gone"):
            run(make("out"), False, MISSING)
    else:
        run(make("out"), False, MISSING)
        run(make("fresh"))
        assert contents(make("out").output) == contents(make("fresh").output)


def test_nothing_to_retry_changes_nothing(make, run, contents, capsys):
    config = make("out")
    run(config)
    before = contents(config.output)
    run(config, False, ("image_animated",))
    assert capsys.readouterr().out == f"retry: no row of {config.output} ended as image_animated\n"
    assert contents(config.output) == before


def test_a_directory_that_was_not_begun_has_nothing_to_retry(make, run):
    with pytest.raises(ShardError, match="expected a directory that filter began, found none; run it first"):
        run(make("none"), False, MISSING)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("caption_too_short", "expected why an image could not be used, found what rules decide; change the rules and"),
        ("near_duplicate", "found what rules decide; change the rules and add --rejudge"),
        ("image_mising", "expected a reason of the ledger, found none; did you mean image_missing, image_animated, "),
    ],
)
def test_a_reason_that_is_no_reason_of_measuring_is_refused(make, run, reason, message):
    with pytest.raises(ConfigError, match=f"^--retry-reason {reason}: .*{message}"):
        run(make("out"), False, (reason,))


def test_the_command_says_how_many_rows_were_read_again(make, data, arrive, capsys):
    def parti(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["filter", "source.kind=table", f"source.path={data}", f"output={data}/out", *arguments])
        return int(end.value.code or 0), capsys.readouterr().out

    parti()
    arrive()
    code, said = parti("--retry-reason", "image_missing", "--retry-reason=image_unreadable")
    assert (code, said.splitlines()) == (
        0, ["retry: 4 rows read again, 3 more than before can be used", "filter: 1 dropped, 9 kept, 2 merged, 12 read"]
    )  # fmt: skip


def test_coco_images_that_have_arrived_are_read(tmp_path, run, contents, plain_png):
    stated = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(3)],
        "annotations": [{"image_id": number, "caption": f"picture {number}"} for number in range(3)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(stated))
    (tmp_path / "1.png").write_bytes(plain_png(1))
    source = CocoSource(kind="coco", path=f"{tmp_path}/captions.json", root=str(tmp_path))
    configs = [FilterConfig(output=f"{tmp_path}/{n}", source=source, max_dropped_fraction=1) for n in ("out", "fresh")]
    run(configs[0])
    (tmp_path / "2.png").write_bytes(plain_png(2))
    run(configs[0], False, MISSING)
    run(configs[1])
    assert reasons(configs[0].output) == ["image_missing", "kept", "kept"]
    assert contents(configs[0].output) == contents(configs[1].output)


def test_progress_of_a_retry_is_of_the_fragments_that_it_writes(make, run, arrive, monkeypatch):
    config, seen = make("out"), []
    run(config)
    arrive()

    @contextmanager
    def look_at_both_ends(watched: Watched) -> Iterator[None]:
        watcher = Watcher(watched, 0.0)
        seen.append(watcher.look(1.0)[:2])
        yield
        seen.append(watcher.look(2.0)[:2])

    monkeypatch.setattr("pipelines.filter.watch", look_at_both_ends)
    run(config, False, MISSING)
    assert seen[:2] == [(0, 0.0), (2, 1.0)]  # the images of the first table are all there


def test_every_reason_that_a_row_is_dropped_for_is_known():
    """The first argument of each `Drop(...)`, and the constants that name a reason."""
    found = set()
    for module in (images, rules, measure_pairs):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Drop":
                found.add(ast.literal_eval(node.args[0]))
    assert found <= {*MEASURED_REASONS, *RULE_REASONS}
    found |= {measure_pairs.SOURCE_UNREADABLE, merge_duplicates.PLACEHOLDER, ledger.EXACT_DUPLICATE}
    found |= {ledger.NEAR_DUPLICATE, benchmarks.BENCHMARK_IMAGE, benchmarks.BENCHMARK_CAPTION}
    assert found == {*MEASURED_REASONS, *RULE_REASONS}
    assert not set(MEASURED_REASONS) & set(RULE_REASONS)
