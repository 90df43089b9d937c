"""The stages that a report is on: a directory and its direct subdirectories, as far as they are finished."""

from pathlib import Path
from typing import NamedTuple

from parti_data.errors import ShardError
from parti_data.manifest import BEGUN, MANIFEST, Manifest, read_manifest
from parti_data.storage import is_file, join, list_directory, read_bytes, read_range

FLOW = (
    "filter", "shard", "train_text", "train_tokenizer", "train_dvae", "train_palette", "train_upsampler",
    "tokenize", "import_tokens", "train_text_encoder", "train_contrastive", "train_prior", "sample", "evaluate",
)  # fmt: skip
"""The stages in the order in which data passes them."""


class FinishedStage(NamedTuple):
    """A finished directory; its name is the last part of its path."""

    name: str
    path: str
    manifest: Manifest


class FoundStages(NamedTuple):
    """What a directory holds: finished stages in the order of the flow, and the names of those only begun."""

    finished: list[FinishedStage]
    unfinished: list[str]

    def of(self, stage: str) -> list[FinishedStage]:
        """Return the finished directories of one stage."""
        return [found for found in self.finished if found.manifest.stage == stage]


def find_stages(directory: str) -> FoundStages:
    """Return the stages of a directory and of its direct subdirectories; raises ShardError where none is finished."""
    places = [(directory_name(directory), directory)]
    places += [(name, join(directory, name)) for name in list_directory(directory)]
    finished = [
        FinishedStage(name, path, read_manifest(path)) for name, path in places if is_file(join(path, MANIFEST))
    ]
    done = {stage.path for stage in finished}
    unfinished = [name for name, path in places if path not in done and is_file(join(path, BEGUN))]
    if not finished:
        found = f"only unfinished ones ({', '.join(unfinished)})" if unfinished else "none"
        raise ShardError(
            f"{directory}: expected finished stages here or in subdirectories, found {found}; run a stage with its "
            "output here first"
        )
    return FoundStages(sorted(finished, key=_place_in_flow), unfinished)


def directory_name(path: str) -> str:
    """Return the last part of a path, that of the working directory for `.`."""
    return path.rstrip("/").rpartition("/")[2] if "://" in path else Path(path).resolve().name


def read_stage_file(stage: FinishedStage, name: str, at_most: int | None = None) -> bytes:
    """Return a file of a finished stage, or its first bytes, at most so many; raises ShardError where it is gone."""
    place = join(stage.path, name)
    try:
        return read_bytes(place) if at_most is None else read_range(place, 0, at_most)
    except FileNotFoundError:
        raise ShardError(
            f"{place}: expected a file that {stage.manifest.stage} wrote, found none; put it back or run "
            f"{stage.manifest.stage} into a new directory"
        ) from None


def _place_in_flow(stage: FinishedStage) -> tuple[int, int, str]:
    """Return where a stage stands: by the flow, then by size, since the held-out data are the smaller ones: of what
    filter kept, as both sides may be of one source.
    """
    counts = stage.manifest.counts
    place = FLOW.index(stage.manifest.stage) if stage.manifest.stage in FLOW else len(FLOW)
    return place, -counts.get("kept", max(counts.values(), default=0)), stage.name
