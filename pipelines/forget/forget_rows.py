"""Forget rows: find them, write the files that hold them anew, prove that nothing else changed, then swap.

Which rows a name takes with it says `find_rows`, what is written anew `plan`. Files are checked against their manifests
before anything is written; each new file is read again and held against the old one, row by row, member by member; and
before the manifests come back all files are checked again, those that nobody touched for the digests from before.

A run that was stopped goes on with the same command: before the swap it begins anew and keeps the new files that are
still right, in the middle of it it goes to the end. What is left says how many rows went and which files were written
anew, and not which rows they were.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from parti_data.claim import LeaseTimes, claim
from parti_data.errors import PartiError, ShardError
from parti_data.figures import say_count
from parti_data.ledger import KEPT
from parti_data.manifest import BEGUN, FORGETTING, Beginning, ShardRecord, to_bytes
from parti_data.progress import show_progress
from parti_data.quality import read_run_quality
from parti_data.storage import absolute, file_size, is_file, join, publish_bytes, remove, sha256_file, sweep
from pipelines.forget.chain import HOLDING, TOKEN_STAGES, TRAINED_ON_IMAGES, Chain, Stage, find_chain, staged
from pipelines.forget.find_rows import Found, Keys, find_rows
from pipelines.forget.names import Names
from pipelines.forget.plan import FileChange, StageChange, change_manifest, plan_changes
from pipelines.forget.prove import check_files, refuse_left_behind
from pipelines.forget.swap import NEW_BEGUN, REPORT, Pledge, Swapped, SwapStage, fulfil, make_pledge, read_pledge

_SHOWN, _SHOWN_FILES = 20, 6
_MODELS = ("train_text", *TRAINED_ON_IMAGES, "train_text_encoder", "train_contrastive", "train_prior")


class Options(NamedTuple):
    """How it is done."""

    dry_run: bool = False
    """Say what would be done, and do nothing."""
    allow_missing: bool = False
    """Go on where some names have no row."""


def forget(
    directory: str,
    names: Names,
    say: Callable[[str], None] = print,
    options: Options = Options(),  # noqa: B008
    times: LeaseTimes | None = None,
) -> list[str]:
    """Remove the rows that the names take with them from all stages of a directory; return folders whose page went.

    What is found and done is said, a line at a time. Raises ShardError where a name has no row, or a file is not what
    its manifest says; then nothing has changed.
    """
    pledge = read_pledge(directory)
    if options.dry_run:
        if pledge:
            raise ShardError(
                f"{directory}: expected a directory at rest, found one in which forget was stopped; run that again "
                "without --dry-run first"
            )
        _look(find_chain(directory), names, say, options)
        return []
    reports = []
    if pledge:
        with _claimed(directory, [join(directory, stage.name) for stage in pledge.stages if stage.name], times):
            swapped = fulfil(directory, pledge)
        say(f"forget: went on where an earlier run was stopped; {_say_swapped(swapped)}")
        reports = swapped.reports
        if pledge.names == names.digest():
            return reports
    stages = [stage.path for stage in find_chain(directory).stages if stage.kind in HOLDING]
    with _claimed(directory, stages, times):
        for path in (directory, *stages):
            sweep(path)
        return reports + _forget(directory, names, say, options)


@contextmanager
def _claimed(directory: str, stages: list[str], times: LeaseTimes | None) -> Iterator[None]:
    """Keep other runs out of a directory and of its stages."""
    with ExitStack() as held:
        for path in dict.fromkeys([absolute(directory), *map(absolute, stages)]):
            held.enter_context(claim(path, times))
        yield


def _forget(directory: str, names: Names, say: Callable[[str], None], options: Options) -> list[str]:
    chain = find_chain(directory)
    found, changes = _look(chain, names, say, options)
    if not changes:
        return []
    records = [(change.stage.path, record) for change in changes for record in records_of(change.stage)]
    check_files(records, "as its manifest says")
    say(f"checked: {_say(len(records), 'file')} as the manifests say")
    equal = _stage_all(changes, found)
    pledge = Pledge(
        names=names.digest(),
        stages=[
            SwapStage(name=_name_in(chain, change.stage), files=_names(change), scratch=change.scratch)
            for change in changes
        ],
        reports=_reports(chain, changes),
    )
    make_pledge(directory, pledge)
    swapped = fulfil(directory, pledge)
    say(f"proved: {_say(equal, 'row')} of the rewritten files, members and pictures among them, are as they were")
    say(f"forget: {_say_swapped(swapped)}")
    return swapped.reports


def _look(
    chain: Chain, names: Names, say: Callable[[str], None], options: Options
) -> tuple[Found, list[StageChange]]:  # fmt: skip
    """Find rows and plan changes, and say both; raises ShardError where names have no row."""
    found = find_rows(chain, names)
    missing = found.missing(names)
    if missing and not options.allow_missing:
        raise ShardError(
            f"{chain.directory}: expected rows of every name, found none of {len(missing)} of {len(names)}: "
            f"{_list(missing)}; nothing was changed: correct them, or add --allow-missing to forget the others"
        )
    for name in missing:
        say(f"not found: {name}")
    changes = plan_changes(chain, found)
    for line in [*describe(chain, changes, found), *warnings(chain, changes)]:
        say(line)
    if not changes:
        say("forget: nothing to forget, nothing was changed")
    elif options.dry_run:
        say("forget: nothing was changed, as --dry-run asks")
    return found, changes


def describe(chain: Chain, changes: list[StageChange], found: Found) -> Iterator[str]:
    """Yield what goes, a line a stage."""
    if changes:
        alike = f", {found.num_alike} of them merged into another of them as looking alike" if found.num_alike else ""
        yield f"to forget: {_say(len(found.keys), 'image')}{alike}"
    for change in changes:
        if not change.files:
            yield f"{change.stage.name}: no row, its manifest names the new digest of its input"
            continue
        indexed = sum(
            len(rows) for place, rows in found.rows.items()
            if place.stage == change.stage.path and change.stage.kind in TRAINED_ON_IMAGES
        )  # fmt: skip
        rows = change.num_rows or indexed
        captions = f", {_say(change.captions, 'caption')} of rows that stay" if change.captions else ""
        yield (
            f"{change.stage.name}: {_say(rows, 'row')}{captions}; {_say(len(change.files), 'file')} of "
            f"{len(records_of(change.stage))} written anew: {_list(_names(change), _SHOWN_FILES)}"
        )


def warnings(chain: Chain, changes: list[StageChange]) -> Iterator[str]:
    """Yield what still holds the rows, or was made with them, and is left as it is."""
    sources: Counter[str] = Counter()
    for change in changes:
        if change.stage.kind != "shard":
            rows = [row for rows in change.ledger_rows.values() for row in rows]
            sources.update(row.path or row.source for row in rows)
    for path, count in sources.most_common(_SHOWN):
        yield f"still in the source: {path} ({_say(count, 'row')})"
    if len(sources) > _SHOWN:
        yield f"still in the source: {_say(len(sources) - _SHOWN, 'more file')}"
    yield from _outside(chain, changes)
    yield from _imported(chain, changes)
    used = {change.stage.path for change in changes if _lost_kept(change)}
    by_themselves = [change.stage for change in changes if change.stage.path in used and change.stage.kind in _MODELS]
    after = [stage for stage in chain.after(used) if stage not in by_themselves]
    for stage in [*by_themselves, *after]:
        if stage.kind in _MODELS:
            yield f"not unlearned: {stage.name} was trained on rows that are forgotten; train it anew in a new output"
        elif stage.kind not in HOLDING:
            yield f"left as it is: {stage.name}, {stage.kind} of what was made with the rows; remove it or make it anew"
    if changes:
        yield from _unknown(chain, {stage.path for stage in [*by_themselves, *after]})
    for name in chain.unfinished:
        yield f"left as it is: {name}, which is not finished and may have seen the rows; remove it or begin it anew"


def _unknown(chain: Chain, told: set[str]) -> Iterator[str]:
    """Yield the stages whose source is none of these, perhaps one of them as it was, but for those that are told of."""
    for stage in chain.stages:
        if stage.path in told or not chain.has_unknown_source(stage):
            continue
        if stage.kind in _MODELS:
            yield (
                f"not sure of {stage.name}: its source is none of these stages alone, perhaps one before --rejudge or "
                "a mixture; if it saw the rows, train it anew, for it may have learned and drawn them"
            )
        elif stage.kind in ("shard", "tokenize") and any(one.kind == "filter" for one in chain.stages):
            yield (
                f"not sure of {stage.name}: its source is none of these stages, perhaps one before --rejudge; if so, "
                "make it anew, for its rows may have captions of forgotten images that looked like theirs"
            )


def _outside(chain: Chain, changes: list[StageChange]) -> Iterator[str]:
    """Yield the inputs of changed stages that lie elsewhere, where the rows stay."""
    for change in changes:
        stage = change.stage
        place = stage.manifest.places.get("source", "its source")
        if stage.kind in ("shard", "tokenize") and "source" not in chain.inputs_of(stage):
            yield f"left as it is: {place}, of which {stage.name} was made and which may still hold the rows"
        if stage.path == chain.directory:
            yield f"left as it is: what was made of {stage.name}, if anything was; give the directory above all of it"


def _imported(chain: Chain, changes: list[StageChange]) -> Iterator[str]:
    """Yield the imports of tokens that lie in a changed stage or in what was made of one."""
    changed = {change.stage.path for change in changes}
    makers = [stage for stage in chain.stages if stage.path in changed] + chain.after(changed)
    for stage in chain.stages:
        source = stage.manifest.places.get("source", "") if stage.kind == "import_tokens" else ""
        place = join(absolute(source), "") if source else ""
        maker = next((maker.name for maker in makers if place.startswith(join(absolute(maker.path), ""))), "")
        if maker:
            yield (
                f"left as it is: {stage.name}, import_tokens of {maker}, in which images have keys of their own; "
                "forget them by those, or remove it"
            )


def _lost_kept(change: StageChange) -> bool:
    """Whether a stage loses anything that later stages read."""
    kept = any(row.outcome == KEPT for rows in change.ledger_rows.values() for row in rows)
    return kept or bool(change.captions) or any(change.token_rows.values())


def records_of(stage: Stage) -> list[ShardRecord]:
    """Return the records of all files of a stage."""
    quality = read_run_quality(stage.path, stage.manifest)
    return [*stage.manifest.shards, *([quality.sheet] if quality else [])]


def _stage_all(changes: list[StageChange], found: Found) -> int:
    """Write all new files beside the old ones, manifests last, and return how much of them is as it was."""
    equal, done, keys = 0, 0, Keys.of(found.keys)
    digests: dict[str, str] = {}
    with show_progress("rewrite", sum(len(change.files) for change in changes)) as bar:
        for change in changes:
            stage = change.stage
            remove(staged(stage.path, FORGETTING))
            before = {record.name: record for record in records_of(stage)}
            records = {}
            for file in change.files:
                equal += _stage_file(stage, file, keys)
                records[file.name] = _record(stage, file, before[file.name])
                done += 1
                bar.update(done, "files")
            manifest = change_manifest(change, records, digests)
            if is_file(join(stage.path, BEGUN)):
                beginning = Beginning.model_validate(manifest.model_dump(include=set(Beginning.model_fields)))
                publish_bytes(staged(stage.path, NEW_BEGUN), to_bytes(beginning))
            publish_bytes(staged(stage.path, FORGETTING), to_bytes(manifest))
            digests[stage.digest] = sha256_file(staged(stage.path, FORGETTING))
    return equal


def _stage_file(stage: Stage, file: FileChange, keys: Keys) -> int:
    """Write one new file, unless an earlier run has, and return how much of it is as it was; raises ShardError."""
    old, new = join(stage.path, file.name), staged(stage.path, file.name)
    equal = None
    if is_file(new):
        try:
            equal = file.prove(old, new)
        except PartiError:  # of other names
            remove(new)
    if equal is None:
        file.write(old, new)
        equal = file.prove(old, new)
    if file.name.endswith(".parquet"):
        columns = ["key"] if stage.kind in TOKEN_STAGES else ["key", "merged_into"]
        refuse_left_behind(new, columns, keys)
    return equal


def _record(stage: Stage, file: FileChange, before: ShardRecord) -> ShardRecord:
    path = staged(stage.path, file.name)
    return ShardRecord(
        name=file.name, rows=before.rows - file.fewer, bytes=file_size(path), sha256=sha256_file(path)
    )  # fmt: skip


def _names(change: StageChange) -> list[str]:
    return [file.name for file in change.files]


def _name_in(chain: Chain, stage: Stage) -> str:
    return "" if stage.path == chain.directory else stage.name


def _reports(chain: Chain, changes: list[StageChange]) -> list[str]:
    folders = dict.fromkeys(["", *(_name_in(chain, change.stage) for change in changes)])
    return [name for name in folders if is_file(join(join(chain.directory, name) if name else chain.directory, REPORT))]


def _say_swapped(swapped: Swapped) -> str:
    gone = ", ".join(swapped.gone)
    passed = f"; passed over as it is not here any more, if it was moved forget there too: {gone}" if gone else ""
    return (
        f"{_say(swapped.num_files, 'file')} replaced, {_say(swapped.num_untouched, 'file')} untouched, with the "
        f"digests from before{passed}"
    )


def _say(count: int, what: str) -> str:
    return f"{say_count(count)} {what}{'' if count == 1 else 's'}"


def _list(names: list[str], most: int = _SHOWN) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
