"""The finished stages of a directory, in the order in which data passed them, and which read the output of which."""

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from parti_data.errors import ShardError
from parti_data.manifest import BEGUN, FORGETTING_FOLDER, MANIFEST, Beginning, Manifest, read_manifest
from parti_data.storage import is_file, join, list_directory, read_bytes, sha256_file
from parti_data.token_directory import STAGES as TOKEN_STAGES

REWRITTEN = ("filter", "shard", *TOKEN_STAGES)
"""Stages whose rows are removed, and whose manifests follow those of their inputs."""
TRAINED_ON_IMAGES = ("train_tokenizer", "train_dvae", "train_palette", "train_upsampler")
HOLDING = (*REWRITTEN, *TRAINED_ON_IMAGES)
"""Stages that hold rows in files of their own; of a training on images the index of a source without filter."""
INDEXES = {"source": "images.parquet", "held_out": "held_out.parquet"}
"""The indexes of a training on images by its inputs, as it calls them, whose module would import torch."""
HISTORY = "forgotten"
"""What a manifest tells of rows that were removed, among its details."""


def staged(directory: str, name: str) -> str:
    """Return where the new file of that name lies until it takes its place."""
    return join(join(directory, FORGETTING_FOLDER), name)


class Stage(NamedTuple):
    """A finished directory."""

    name: str
    """The last part of its path."""
    path: str
    manifest: Manifest
    digest: str
    """Of its manifest."""

    @property
    def kind(self) -> str:
        """What made it."""
        return self.manifest.stage

    def known_by(self) -> set[str]:
        """Return the digests by which later stages may know it: of its manifest, now or before, or of its files."""
        before = {entry["manifest"] for entry in self.manifest.details.get(HISTORY, [])}
        files = {shard.sha256 for shard in self.manifest.shards}
        return {self.digest, str(self.manifest.details.get("fingerprint", self.digest))} | before | files

    def row_files(self) -> list[str]:
        """Return the names of its Parquet files that hold rows by key."""
        names = [shard.name for shard in self.manifest.shards if shard.name.endswith(".parquet")]
        if self.kind in ("filter", "shard"):
            return [name for name in names if name.startswith("ledger-")]
        if self.kind in TRAINED_ON_IMAGES:
            return [name for name in names if name in INDEXES.values()]
        return names if self.kind in TOKEN_STAGES else []


class Chain(NamedTuple):
    """All finished stages, inputs before what reads them; and the names of trainings that are not finished."""

    directory: str
    stages: list[Stage]
    unfinished: list[str]

    def inputs_of(self, stage: Stage) -> dict[str, Stage]:
        """Return the stages among its inputs, by their name there."""
        known = [(name, digest) for name, digest in stage.manifest.inputs.items()]
        found = {name: [one for one in self.stages if digest in one.known_by()] for name, digest in known}
        return {name: stages[0] for name, stages in found.items() if stages and stages[0].path != stage.path}

    def has_unknown_source(self, stage: Stage) -> bool:
        """Whether it has rows of a source that is the output of no stage here, and that it has no index of either."""
        inputs, own = stage.manifest.inputs, stage.row_files()
        return "source" in inputs.keys() - self.inputs_of(stage) and INDEXES["source"] not in own

    def after(self, paths: set[str], kinds: tuple[str, ...] = ()) -> list[Stage]:
        """Return the stages that read the output of those at the paths, or of what reads it, of any kind or of some."""
        reached = set(paths)
        found = []
        for stage in self.stages:
            is_after = any(source.path in reached for source in self.inputs_of(stage).values())
            if is_after and (not kinds or stage.kind in kinds):
                reached.add(stage.path)
                found.append(stage)
        return found


def find_chain(directory: str) -> Chain:
    """Return the stages of a directory and its direct subdirectories.

    Raises ShardError where none is finished, or one is not that may hold rows.
    """
    places = [(_last(directory), directory)]
    places += [(name, join(directory, name)) for name in list_directory(directory) if name != FORGETTING_FOLDER]
    stages, unfinished = [], []
    for name, path in places:
        if is_file(join(path, MANIFEST)):
            stages.append(Stage(name, path, read_manifest(path), sha256_file(join(path, MANIFEST))))
        elif is_file(join(path, BEGUN)):
            _refuse_unfinished(path)
            unfinished.append(name)
    if not stages:
        raise ShardError(
            f"{directory}: expected a directory of finished stages, or one of them, found none; give the directory "
            "that filter, shard or tokenize wrote, or the one above it"
        )
    return Chain(directory, _in_order(Chain(directory, stages, unfinished)), unfinished)


def _in_order(chain: Chain) -> list[Stage]:
    by_path = {stage.path: stage for stage in chain.stages}
    sources = {stage.path: [one.path for one in chain.inputs_of(stage).values()] for stage in chain.stages}
    return [by_path[path] for path in TopologicalSorter(sources).static_order()]


def _refuse_unfinished(path: str) -> None:
    begun: Any = Beginning.model_validate_json(read_bytes(join(path, BEGUN)))
    if begun.stage in HOLDING:
        raise ShardError(
            f"{path}: expected a finished directory, found one that {begun.stage} has only begun and that may hold "
            "such rows; finish it or remove it, then forget"
        )


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] if "://" in path else Path(path).resolve().name
