"""A stage's directory: begun with one config, filled file by file, finished by `manifest.json`.

`begun.json` holds the config and the inputs that a directory was begun with, so that a rerun with another config is
refused and shows the difference. `manifest.json` comes last: where it is, the directory is finished. Each manifest
holds the digests of its inputs, so the chain leads from a sample back to the sources.
"""

import json
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from parti_data.errors import ShardError
from parti_data.storage import (
    digest_json,
    file_size,
    is_file,
    join,
    list_directory,
    publish_bytes,
    read_bytes,
    remove,
    sha256_file,
    sweep,
)  # fmt: skip

MANIFEST = "manifest.json"
BEGUN = "begun.json"
FORGETTING_FOLDER, FORGETTING = "forgetting", "manifest.new"
"""Where new files lie while rows are forgotten, and the manifest among them until all others are in their places."""
FORMAT_VERSION = 1
_VERSIONED = ("parti", "numpy", "pillow", "pyarrow", "sentencepiece", "py3langid", "apache-beam", "torch")


def _refuse_outside(name: str) -> str:
    if "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"a file named {name[:80]!r}, which is no path below its directory")
    return name


Told = TypeVar("Told", bound=BaseModel)
NameInside = Annotated[str, AfterValidator(_refuse_outside)]
"""A path from a directory on; who wrote it may be anyone, so never one that leads out of it."""


class ShardRecord(BaseModel):
    """One file of a finished directory."""

    name: NameInside
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class Beginning(BaseModel):
    """What a directory was begun with."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    """The digest of each input: of its manifest, or of its list of files."""

    @property
    def digest(self) -> str:
        """What files say that depend on all of it, so that those of another beginning are told from them."""
        return digest_json([self.stage, self.config, self.inputs])


class Manifest(Beginning):
    """What a finished directory holds and where it came from."""

    format_version: int = FORMAT_VERSION
    counts: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    shards: list[ShardRecord] = Field(default_factory=list)

    @property
    def places(self) -> dict[str, str]:
        """Where source and tokenizers were, by name, as far as the manifest tells."""
        places = self.details.get("places")
        return (
            {name: place for name, place in places.items() if isinstance(place, str)}
            if isinstance(places, dict)
            else {}
        )


class StageDirectory(NamedTuple):
    """A directory that a stage fills."""

    path: str
    beginning: Beginning

    def finish(
        self, shards: list[ShardRecord], counts: dict[str, int], details: dict[str, Any] | None = None
    ) -> Manifest:
        """Write the manifest, which marks the directory as finished, and return it."""
        manifest = Manifest(
            **self.beginning.model_dump(),
            counts=counts,
            details=details or {},
            versions=_versions(),
            shards=sorted(shards, key=lambda shard: shard.name),
        )
        publish_bytes(join(self.path, MANIFEST), to_bytes(manifest))
        return manifest

    def finished(self) -> Manifest:
        """Return the manifest that a worker wrote; raises ShardError where none has come here."""
        if not is_file(join(self.path, MANIFEST)):
            raise ShardError(
                f"{self.path}: expected the {MANIFEST} that the workers wrote, found none; choose an output that this "
                "machine and theirs reach by the same path"
            )
        return read_manifest(self.path)


def is_begun(path: str) -> bool:
    """Whether a stage began, or finished, this directory."""
    return is_file(join(path, BEGUN)) or is_file(join(path, MANIFEST))


def begin(path: str, beginning: Beginning) -> StageDirectory | Manifest:
    """Return the directory to fill, or its manifest where it is already finished.

    Raises ShardError where the directory was begun with another stage, config or input, and shows the difference.
    """
    if is_file(join(path, MANIFEST)):
        manifest = read_manifest(path)
        _refuse_drift(path, manifest, beginning)
        sweep(path)  # metrics come behind the manifest
        return manifest
    if is_file(join(path, BEGUN)):
        _refuse_drift(path, _read_beginning(path), beginning)
        sweep(path)
    else:
        _refuse_forgetting(path)
        if parquet := [name for name in list_directory(path) if name.endswith((".parquet", ".tar"))]:
            raise ShardError(
                f"{path}: expected an empty directory or one that {beginning.stage} began, found {parquet[0]} and no "
                f"{BEGUN}; choose another output"
            )
        publish_bytes(join(path, BEGUN), to_bytes(beginning))
    return StageDirectory(path, beginning)


def require_reopening(path: str, beginning: Beginning, changeable: Iterable[str]) -> Beginning:
    """Return what a directory was begun with; raises ShardError where more has changed than may.

    What may change is named from the beginning on: `config.rules`, `inputs.source`.
    """
    begun = read_beginning(path, beginning.stage)
    names = [name.split(".") for name in changeable]
    _refuse_drift(path, _without(begun, names), _without(beginning, names))
    return begun


def reopen(path: str, beginning: Beginning, changeable: Iterable[str], anew: bool = False) -> None:
    """Let a directory begin again with other values of some parts of its config or inputs; only its shards go.

    A directory that was begun with this very config is left as it is, but for one that shall be made `anew`. Raises
    ShardError where more has changed.
    """
    if require_reopening(path, beginning, changeable) == beginning and not anew:
        return
    remove(join(path, MANIFEST))
    for name in list_directory(path):
        if name.endswith(".parquet"):
            remove(join(path, name))
    publish_bytes(join(path, BEGUN), to_bytes(beginning))  # last: until then the directory is as it was, or unfinished


def _without(beginning: Beginning, names: list[list[str]]) -> Beginning:
    """Return the beginning without the parts that have these names."""
    values = beginning.model_dump()
    for *tables, last in names:
        part: Any = values
        for table in tables:
            part = part.get(table, {})
        part.pop(last, None)
    return Beginning.model_validate(values)


def read_manifest(path: str, stages: tuple[str, ...] = ()) -> Manifest:
    """Return a finished directory's manifest; raises ShardError where it is not finished, or by another stage."""
    place = join(path, MANIFEST)
    if not is_file(place):
        found = "an unfinished directory" if is_file(join(path, BEGUN)) else "none"
        _refuse_forgetting(path)
        raise ShardError(f"{path}: expected a finished directory with {MANIFEST}, found {found}; run its stage first")
    try:
        manifest = Manifest.model_validate_json(read_bytes(place))
    except ValidationError as error:
        first = error.errors()[0]
        raise ShardError(f"{place}: expected a manifest, found {first['msg']}; run the stage again") from None
    if manifest.format_version != FORMAT_VERSION:
        raise ShardError(
            f"{place}: expected format version {FORMAT_VERSION}, found {manifest.format_version}; use a parti that "
            "knows it"
        )
    if stages and manifest.stage not in stages:
        raise ShardError(f"{path}: expected the output of {' or '.join(stages)}, found that of {manifest.stage}")
    return manifest


def check_told(path: str, stage: str, values: dict[str, Any], told: type[Told]) -> Told:
    """Return what the manifest of a directory tells, as a model of it; raises ShardError where it tells another."""
    try:
        return told.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ShardError(
            f"{join(path, MANIFEST)}: expected a manifest as {stage} writes it, found for "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; run {stage} into a new directory"
        ) from None


def _refuse_forgetting(path: str) -> None:
    if is_file(join(path, f"{FORGETTING_FOLDER}/{FORGETTING}")):
        raise ShardError(
            f"{path}: expected a directory in which no file is about to change, found one in which forget was stopped; "
            "run the same forget again"
        )


def read_beginning(path: str, stage: str) -> Beginning:
    """Return what a directory was begun with; raises ShardError where it was not begun."""
    if not is_file(join(path, BEGUN)):
        raise ShardError(f"{path}: expected a directory that {stage} began, found none; run it first")
    return _read_beginning(path)


def _read_beginning(path: str) -> Beginning:
    try:
        return Beginning.model_validate_json(read_bytes(join(path, BEGUN)))
    except ValidationError as error:
        raise ShardError(
            f"{join(path, BEGUN)}: expected what the directory was begun with, found {error.errors()[0]['msg']}; "
            "choose another output"
        ) from None


def manifest_digest(path: str) -> str:
    """Return the digest by which later stages know this finished directory."""
    read_manifest(path)
    return sha256_file(join(path, MANIFEST))


def refuse_changed_input(path: str, digest: str) -> None:
    """Raise ShardError where a finished directory is no longer the one that a run began with.

    For workers, after they have read of it and before what they made of it appears: they know its rows by number.
    """
    if (found := manifest_digest(path)) != digest:
        raise ShardError(
            f"{path}: expected the manifest {digest[:12]} that the run began with, found {found[:12]}; it was changed "
            "meanwhile, so choose another output"
        )


def record_shard(directory: str, name: str, rows: int) -> ShardRecord:
    """Return the record of a finished file."""
    place = join(directory, name)
    return ShardRecord(name=name, rows=rows, bytes=file_size(place), sha256=sha256_file(place))


def shard_name(prefix: str, number: int, total: int, extension: str) -> str:
    """Return `prefix-00007-of-00042.extension`."""
    return f"{prefix}-{number:05d}-of-{total:05d}.{extension}"


def _refuse_drift(path: str, begun: Beginning, now: Beginning) -> None:
    if begun.stage != now.stage:
        raise ShardError(
            f"{path}: expected an output of {now.stage}, found one of {begun.stage}; choose another output"
        )
    changes = _differences(begun.config, now.config) + _differences(begun.inputs, now.inputs, "input ")
    if changes:
        raise ShardError(
            f"{path}: expected the config that it was begun with, found another ({'; '.join(changes)}); change it back "
            "or choose another output"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    changes = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(f"{prefix}{key}: begun with {old!r}, now {new!r}")
    return changes


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def to_bytes(model: BaseModel) -> bytes:
    """Return a manifest or a beginning as its file holds it."""
    return (json.dumps(model.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
