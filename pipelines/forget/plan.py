"""What forgetting changes: the files of each stage that are written anew, and what its manifest then says.

filter            its ledgers and their measures, thumbnails among them, keep the places of rows; benchmarks.jsonl
shard             tars without the members, ledgers without the rows and with the new places of the others
tokenize,         token shards without the rows, in full row groups; quality.png without the pictures; what the manifest
import_tokens     tells of shards is measured anew, of slices it stays as it was when they were encoded
train_tokenizer,  images.parquet and held_out.parquet without the rows; their pictures turn grey where they may show one
train_dvae,
train_palette,
train_upsampler

Counts follow, and so do the digests of inputs, in order; the metadata of token shards stay those of their making. A
manifest then tells, under `forgotten`, its digest from before, how many rows and captions went and which files were
written anew. Models are not unlearned, and files of the source are never touched: both are only told.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from parti_data.benchmarks import BENCHMARK_CAPTION, BENCHMARK_IMAGE
from parti_data.errors import ShardError
from parti_data.held_out import is_held_out
from parti_data.ledger import DROPPED, FORGOTTEN, KEPT, MERGED, LedgerRow, amounts, read_ledger, read_rows, say_ending
from parti_data.manifest import Manifest, ShardRecord
from parti_data.quality import RunQuality, TokenQuality, measure_shard, read_run_quality
from parti_data.storage import absolute, is_directory, join
from parti_data.token_directory import STAGES as TOKEN_STAGES
from parti_data.token_directory import open_token_directory
from pipelines.forget import prove, rewrite
from pipelines.forget.chain import HISTORY, HOLDING, INDEXES, REWRITTEN, TRAINED_ON_IMAGES, Chain, Stage, staged
from pipelines.forget.find_rows import Found, Place, read_column_at
from pipelines.forget.rewrite import Audited, RowChange
from pipelines.fragments import fragment_name

AUDIT = "benchmarks.jsonl"
"""What benchmarks removed, as filter calls it, whose module would import Beam."""
_DRAWN_PICTURES = 12
"""Of the images that a tokenizer is measured on, so many are drawn."""
_ENCODED, _EVENTS = "encoded", "tensorboard"
"""Folders that no manifest lists: slices that a run killed at its very end has left, and pictures of a training."""


class FileChange(NamedTuple):
    """A file that is written anew."""

    name: str
    fewer: int
    """So many rows fewer its record states."""
    write: Callable[[str, str], None]
    """From the old file to the new one."""
    prove: Callable[[str, str], int]
    """Returns how much of the new file is as it was in the old one; raises ShardError."""


@dataclass
class StageChange:
    """What becomes of a stage; of one whose inputs alone change no file is written anew."""

    stage: Stage
    files: list[FileChange] = field(default_factory=list)
    ledger_rows: dict[str, list[LedgerRow]] = field(default_factory=dict)
    """Rows that a ledger of filter or shard loses, by its name."""
    token_rows: dict[str, int] = field(default_factory=dict)
    """Rows that a token shard loses, by its name."""
    images: int = 0
    """Images that token shards lose."""
    captions: int = 0
    """Captions that rows lose which stay."""
    sample_gone: list[int] = field(default_factory=list)
    """Pictures that a contact sheet loses."""
    scratch: list[str] = field(default_factory=list)
    """Folders that go."""

    @property
    def num_rows(self) -> int:
        """Rows that go from its data."""
        return sum(map(len, self.ledger_rows.values())) + sum(self.token_rows.values())


def plan_changes(chain: Chain, found: Found) -> list[StageChange]:
    """Return what becomes of each stage that changes, inputs before what reads them.

    Raises ShardError where tars that change are the source of a stage, whose rows would point elsewhere.
    """
    touched = {place.stage for place in [*found.rows, *found.captions]}
    after = {stage.path for stage in chain.after(touched, REWRITTEN)}
    changes = [_plan(chain, stage, found) for stage in chain.stages if stage.kind in HOLDING]
    changes = [change for change in changes if change.files or change.stage.path in after]
    _refuse_readers(
        chain, [join(absolute(change.stage.path), "") for change in changes if change.stage.kind == "shard"]
    )
    return changes


def _refuse_readers(chain: Chain, tars: list[str]) -> None:
    """Raise ShardError where a stage has a source of its own below one of the folders of tars."""
    for stage in chain.stages:
        for source in (stage.manifest.config.get(name) for name in INDEXES):
            path = source.get("path") if isinstance(source, dict) else None
            if path and any(join(absolute(path), "").startswith(folder) for folder in tars):
                raise ShardError(
                    f"{stage.path}: expected a source that is not rewritten, found {path}, which holds such rows; "
                    "remove this directory, forget, and make it anew"
                )


def _plan(chain: Chain, stage: Stage, found: Found) -> StageChange:
    change = StageChange(stage)
    for name in stage.row_files():
        place = Place(stage.path, name)
        rows = RowChange(found.of(place), found.captions.get(place, {}))
        if len(rows.gone) or rows.captions:
            change.captions += sum(map(len, rows.captions.values()))
            if stage.kind in TOKEN_STAGES:
                _plan_tokens(change, name, rows)
            else:
                change.ledger_rows[name] = list(read_rows(place.path, rows.gone))
                plan = {"filter": _plan_filter, "shard": _plan_shard}.get(stage.kind, _plan_index)
                plan(change, name, rows)
    _plan_pictures(chain, change, found)
    change.scratch = [name for name in change.scratch if is_directory(join(stage.path, name))]
    return change


def _plan_filter(change: StageChange, name: str, rows: RowChange) -> None:
    only_gone = RowChange(rows.gone, {})
    fragment = fragment_name(int(name.split("-")[1]))
    change.files.append(_row_file(name, 0, rows, rewrite.bury_rows, prove.prove_buried))
    if len(rows.gone):
        change.files.append(_row_file(fragment, 0, only_gone, rewrite.bury_rows, prove.prove_buried))
    if any(shard.name == AUDIT for shard in change.stage.manifest.shards):
        _plan_audit(change)


def _plan_audit(change: StageChange) -> None:
    reasons = (BENCHMARK_IMAGE, BENCHMARK_CAPTION)
    lines: Counter[Audited] = Counter(
        (row.key, row.source, row.source_key)
        for rows in change.ledger_rows.values()
        for row in rows
        if row.reason in reasons
    )
    change.files = [file for file in change.files if file.name != AUDIT]
    if lines:
        write, check = partial(rewrite.remove_lines, rows=lines), partial(prove.prove_lines, rows=lines)
        change.files.append(FileChange(AUDIT, lines.total(), write, check))


def _plan_shard(change: StageChange, name: str, rows: RowChange) -> None:
    ledger, tar = join(change.stage.path, name), name.replace("ledger-", "pairs-").replace(".parquet", ".tar")
    gone = {row.offset for row in change.ledger_rows[name]}
    less = {row.offset for row in read_rows(ledger, rows.captions)}
    new_tar = staged(change.stage.path, tar)

    def check_ledger(old: str, new: str) -> int:
        equal = prove.prove_removed(old, new, rows, but=("offset",))
        prove.prove_places(new, new_tar)
        return equal

    write_tar = partial(rewrite.remove_members, ledger=ledger, change=rows)
    change.files.append(FileChange(tar, len(rows.gone), write_tar, partial(prove.prove_tar, gone=gone, less=less)))
    write_ledger = partial(rewrite.move_ledger_rows, change=rows, tar=new_tar)
    change.files.append(FileChange(name, len(rows.gone), write_ledger, check_ledger))


def _plan_index(change: StageChange, name: str, rows: RowChange) -> None:
    change.files.append(_row_file(name, 0, rows, rewrite.remove_ledger_rows, prove.prove_removed))


def _plan_tokens(change: StageChange, name: str, rows: RowChange) -> None:
    tokens = open_token_directory(change.stage.path)
    write = partial(rewrite.remove_token_rows, metadata=tokens.metadata, row_group_rows=tokens.row_group_rows)
    change.files.append(_row_file(name, len(rows.gone), rows, write, prove.prove_removed))
    change.token_rows[name] = len(rows.gone)
    change.scratch = [_ENCODED]
    change.images += read_column_at(join(change.stage.path, name), "view", rows.gone).count(0)


def _row_file(
    name: str, fewer: int, rows: RowChange, write: Callable[..., None], check: Callable[..., int]
) -> FileChange:  # fmt: skip
    return FileChange(name, fewer, partial(write, change=rows), partial(check, change=rows))


def _plan_pictures(chain: Chain, change: StageChange, found: Found) -> None:
    """Plan the pictures that show a forgotten image: a contact sheet loses it, what a training drew turns grey."""
    stage = change.stage
    if quality := read_run_quality(stage.path, stage.manifest):
        change.sample_gone = [n for n, one in enumerate(quality.sample) if one.key in found.keys]
        if change.sample_gone:
            chosen = {"count": len(quality.sample), "gone": change.sample_gone}
            write, check = partial(rewrite.cut_sheet, **chosen), partial(prove.prove_sheet, **chosen)
            change.files.append(FileChange(quality.sheet.name, 0, write, check))
    if stage.kind in TRAINED_ON_IMAGES and _may_be_drawn(chain, stage, found):
        change.scratch = [_EVENTS]
        for shard in stage.manifest.shards:
            if shard.name.endswith(".png"):
                change.files.append(FileChange(shard.name, 0, rewrite.blank_picture, lambda old, new: 0))


def _may_be_drawn(chain: Chain, stage: Stage, found: Found) -> bool:
    """Whether a training's pictures may show a forgotten image.

    Of those that it was measured on the first few are drawn. Of a held-out set, which may share images with what was
    trained on and leaves those out, any one counts.
    """
    name = "held_out" if "held_out" in stage.manifest.inputs else "source"
    inputs = chain.inputs_of(stage)
    measured = Place(inputs[name].path, "") if name in inputs else Place(stage.path, INDEXES[name])
    ledgers = inputs[name].row_files() if name in inputs else [measured.name]
    places = [place for ledger in ledgers if (place := Place(measured.stage, ledger)) in found.rows]
    if name == "held_out" or not places:
        return any(row.outcome == KEPT for place in places for row in read_rows(place.path, found.of(place)))
    share = float(stage.manifest.config.get("held_out_share") or 0)
    rows = (row for ledger in ledgers for row in read_ledger(join(measured.stage, ledger)) if row.outcome == KEPT)
    drawn = islice((row.key for row in rows if not share or is_held_out(row.key, share)), _DRAWN_PICTURES)
    return any(key in found.keys for key in drawn)


def change_manifest(change: StageChange, records: dict[str, ShardRecord], digests: dict[str, str]) -> Manifest:
    """Return the manifest of a stage with the records of its new files.

    `digests` says what inputs were known by, and are now; they have to be those that come before it.
    """
    stage = change.stage
    manifest = stage.manifest.model_copy(deep=True)
    manifest.shards = [records.get(shard.name, shard) for shard in manifest.shards]
    if stage.kind in REWRITTEN:
        manifest.inputs = {name: digests.get(digest, digest) for name, digest in manifest.inputs.items()}
    if stage.kind == "filter":
        _recount_filter(manifest, change)
    elif stage.kind == "shard":
        _recount_kept(manifest, change)
    elif stage.kind in TOKEN_STAGES:
        for name, gone in (("rows", sum(change.token_rows.values())), ("pairs", change.images)):
            if name in manifest.counts:
                manifest.counts[name] -= gone
    if quality := read_run_quality(stage.path, stage.manifest):
        manifest.details["quality"] = _remeasure(quality, change, records)
    elif change.token_rows and "shards" in manifest.details:  # import_tokens keeps measures of shards alone
        measured = {name: one.model_dump(mode="json") for name, one in _measure(change).items()}
        manifest.details["shards"] = manifest.details["shards"] | measured
    history = manifest.details.setdefault(HISTORY, [])
    history.append(
        {
            "manifest": stage.digest,
            "rows": change.num_rows,
            "captions": change.captions,
            "rewritten": sorted(records),
        }
    )
    return manifest


def _recount_kept(manifest: Manifest, change: StageChange) -> None:
    for number, name in enumerate(change.stage.row_files()):
        kept = sum(row.outcome == KEPT for row in change.ledger_rows.get(name, []))
        manifest.details["kept"][number] -= kept
        manifest.counts["kept"] -= kept


def _recount_filter(manifest: Manifest, change: StageChange) -> None:
    _recount_kept(manifest, change)
    rows = [row for rows in change.ledger_rows.values() for row in rows]
    reasons = Counter(manifest.details["reasons"])
    reasons.subtract(say_ending(row) for row in rows)
    reasons[f"{DROPPED} {FORGOTTEN}"] += len(rows)
    manifest.details["reasons"] = {name: count for name, count in sorted(reasons.items()) if count}
    totals = Counter(manifest.details["totals"])
    for row in rows:
        totals.subtract(amounts(row))
    totals["captions_kept"] -= change.captions
    manifest.details["totals"] = dict(sorted(totals.items()))
    manifest.counts[MERGED] -= sum(row.outcome == MERGED for row in rows)
    manifest.counts[DROPPED] += sum(row.outcome != DROPPED for row in rows)


def _measure(change: StageChange) -> dict[str, TokenQuality]:
    """Return what the new token shards tell by themselves."""
    return {name: measure_shard(staged(change.stage.path, name)) for name in change.token_rows}


def _remeasure(quality: RunQuality, change: StageChange, records: dict[str, ShardRecord]) -> dict[str, Any]:
    """Return what is told of a directory's tokens: shards are measured anew, slices stay as they were encoded."""
    shards = quality.shards | _measure(change)
    sample = [one for number, one in enumerate(quality.sample) if number not in change.sample_gone]
    sheet = records.get(quality.sheet.name, quality.sheet)
    return quality.model_copy(update={"shards": shards, "sample": sample, "sheet": sheet}).details()
