"""New files take the places of old ones in all stages of a directory, to the end, however often that is stopped.

First all of them lie beside, in `forgetting/` of each stage, and `forgetting.json` above them says that they are
complete: until then nothing has changed, and from then on a rerun goes on. Manifests and beginnings go first, those of
the last stages before those that they read, so that no stage is taken for finished, or for begun, while files change;
they come back last, in the order of the stages, when every file has its new digest.
"""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from parti_data.errors import ShardError
from parti_data.manifest import BEGUN, FORGETTING, FORGETTING_FOLDER, MANIFEST, Manifest, NameInside, ShardRecord
from parti_data.quality import read_run_quality
from parti_data.storage import (
    canonical_json,
    is_file,
    join,
    move,
    publish_bytes,
    read_bytes,
    remove,
)  # fmt: skip
from pipelines.forget.chain import staged
from pipelines.forget.prove import check_files

PLEDGE = "forgetting.json"
"""What is to be done yet, in the directory that was given."""
REPORT = "report.html"
"""As the report calls it, whose module would import jinja2."""
NEW_BEGUN = "begun.new"
"""The new beginning while it lies beside, under another name, so that nothing takes the folder for a stage."""


class SwapStage(BaseModel):
    """What becomes of a stage's files."""

    name: NameInside | Literal[""]
    """Of its folder in the directory that was given, empty for that itself."""
    files: list[NameInside]
    """That are replaced."""
    scratch: list[NameInside]
    """Folders that go."""


class Pledge(BaseModel):
    """All that is to be done; of what is forgotten it holds no more than a digest of the names."""

    names: str
    stages: list[SwapStage]
    reports: list[NameInside | Literal[""]]
    """Folders with a page, which may show what is forgotten."""


class Swapped(NamedTuple):
    """What has been done."""

    num_files: int
    """Replaced."""
    num_untouched: int
    """With the digests from before."""
    reports: list[str]
    """Folders whose pages went."""
    gone: list[str]
    """Stages that were passed over."""


def read_pledge(directory: str) -> Pledge | None:
    """Return what an earlier run has promised and not finished, None where there is nothing; raises ShardError."""
    path = join(directory, PLEDGE)
    if not is_file(path):
        return None
    try:
        return Pledge.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ShardError(
            f"{path}: expected what forget is to do yet, found {error.errors()[0]['msg']}; nothing was changed: get "
            "the directory from where it is whole"
        ) from None


def make_pledge(directory: str, pledge: Pledge) -> None:
    """Write down that all new files are complete; from now on they take their places."""
    publish_bytes(join(directory, PLEDGE), canonical_json(pledge.model_dump()).encode())


def fulfil(directory: str, pledge: Pledge) -> Swapped:
    """Put all new files in their places, from wherever an earlier run was stopped.

    A stage that is not there any more is passed over. Raises ShardError where a file that nobody touched has another
    digest than before.
    """
    each = [(stage, join(directory, stage.name) if stage.name else directory) for stage in pledge.stages]
    places = [one for one in each if is_file(staged(one[1], FORGETTING)) or is_file(join(one[1], MANIFEST))]
    for _, path in reversed(places):
        if is_file(staged(path, FORGETTING)):
            remove(join(path, BEGUN))  # first: without it and the manifest no stage goes on here
            remove(join(path, MANIFEST))
    for folder in pledge.reports:
        remove(join(join(directory, folder) if folder else directory, REPORT))
    for stage, path in places:
        for name in stage.files:
            if is_file(staged(path, name)):
                move(staged(path, name), join(path, name))
        for name in stage.scratch:
            remove(join(path, name))
    records = [(path, record) for _, path in places for record in _records(path)]
    check_files(records, "after forgetting")
    for _, path in places:
        for new, name in ((FORGETTING, MANIFEST), (NEW_BEGUN, BEGUN)):
            if is_file(staged(path, new)):
                move(staged(path, new), join(path, name))
    for _, path in places:
        remove(join(path, FORGETTING_FOLDER))
    remove(join(directory, PLEDGE))
    num_files = sum(len(stage.files) for stage, _ in places)
    gone = [stage.name for stage in pledge.stages if stage not in [here for here, _ in places]]
    return Swapped(num_files, len(records) - num_files, pledge.reports, gone)


def _records(path: str) -> list[ShardRecord]:
    """Return the records of all files that a stage has when it is done."""
    place = staged(path, FORGETTING)
    manifest = Manifest.model_validate_json(read_bytes(place if is_file(place) else join(path, MANIFEST)))
    quality = read_run_quality(path, manifest)
    return [*manifest.shards, *([quality.sheet] if quality else [])]
