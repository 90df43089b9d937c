"""The export stage: token shards as others read them, WebDataset tars or a data set of Hugging Face."""

import hashlib
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import NonNegativeInt, model_validator

from parti_data.config import Place, StageConfig, StrictModel
from parti_data.dataset_card import FOLDER, SPLIT, CardText, ExportedShards, write_card
from parti_data.errors import ConfigError, ShardError
from parti_data.manifest import (
    Beginning,
    Manifest,
    ShardRecord,
    StageDirectory,
    begin,
    record_shard,
    refuse_changed_input,
    shard_name,
)
from parti_data.metrics import ROWS, WRITTEN_BYTES
from parti_data.step_times import count, timed, timed_each
from parti_data.storage import file_size, is_file, join, open_file, publish, publish_bytes, sweep
from parti_data.token_directory import TokenDirectory, checked_groups, open_token_directory, read_rows
from parti_data.token_shard import read_row_group
from parti_data.token_tar import TokenTar, token_shape
from parti_data.watch import Watched, watch
from pipelines.run_metrics import reported_steps, run_recorded
from pipelines.runner import make_pipeline
from pipelines.shard import ShardPlan, plan_shards

METADATA = "metadata.json"
"""What made the tokens, beside the files."""
CARD = "README.md"
_BLOCK_BYTES = 1 << 20

Format = Literal["webdataset", "huggingface"]


class Card(StrictModel):
    """What the card of a data set on Hugging Face says beside what the shards tell."""

    title: str = "Image tokens"
    license: str = ""
    """As the Hub calls it, for instance cc-by-4.0."""


class ExportConfig(StageConfig):
    """What `parti export` is told."""

    source: Place
    """A directory that tokenize or import-tokens finished."""
    format: Format
    rows_per_tar: NonNegativeInt = 0
    """Tars of equal size with at most so many rows; with 0 one for each token shard."""
    card: Card = Card()

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"source"})

    @model_validator(mode="after")
    def _refuse_what_does_not_go_with_the_format(self) -> Self:
        for name, kind in (("rows_per_tar", "webdataset"), ("card", "huggingface")):
            if self.format != kind and getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(f"{name}: expected it with format {kind} alone, found {self.format}; leave it out")
        return self


class Export(NamedTuple):
    """What all files share."""

    source: str
    input_digest: str
    output: str
    format: Format


class ExportedFile(NamedTuple):
    """A finished file; the bytes are those of its rows in memory, counted for a data set of Hugging Face alone."""

    record: ShardRecord
    arrow_bytes: int


@dataclass(eq=False)
class ExportFiles(beam.PTransform):
    """ShardPlan to its ExportedFile."""

    export: Export

    def expand(self, plans):
        """Wire the step."""
        return plans | "ExportFile" >> beam.Map(export_file, export=self.export)


def plan_files(tokens: TokenDirectory, rows_per_tar: int) -> list[ShardPlan]:
    """Return the rows of each file: those of a token shard, or with `rows_per_tar` portions of one size."""
    if rows_per_tar:
        return plan_shards(tokens.num_rows, rows_per_tar)
    plans, first = [], 0
    for number, shard in enumerate(tokens.shards):
        plans.append(ShardPlan(number, len(tokens.shards), first, first + shard.rows))
        first += shard.rows
    return plans


def file_name(plan: ShardPlan, kind: Format) -> str:
    """Return what a file is called in its directory."""
    if kind == "webdataset":
        return shard_name("tokens", plan.number, plan.total, "tar")
    return join(FOLDER, shard_name(SPLIT, plan.number, plan.total, "parquet"))


def export_file(plan: ShardPlan, export: Export) -> ExportedFile:
    """Write a file unless it is there; its bytes are a function of the plan and the source."""
    name = file_name(plan, export.format)
    path = join(export.output, name)
    tokens = open_token_directory(export.source)
    with reported_steps():
        if not is_file(path):
            refuse_changed_input(export.source, export.input_digest)
            if export.format == "webdataset":
                write_tar(path, tokens, plan)
            else:
                copy_shard(path, tokens, plan.number)
            count(WRITTEN_BYTES, file_size(path))
        with timed("digest"):
            record = record_shard(export.output, name, plan.last - plan.first)
        if export.format == "webdataset":
            return ExportedFile(record, 0)
        with timed("measure"):
            return ExportedFile(record, measure_copy(path, record, tokens, plan.number))


def write_tar(path: str, tokens: TokenDirectory, plan: ShardPlan) -> None:
    """Write the rows of a plan as a tar, whole or not at all; raises ShardError."""
    with timed("write"), publish(path) as file, tarfile.open(
        fileobj=file, mode="w", format=tarfile.USTAR_FORMAT
    ) as archive:  # fmt: skip
        tar = TokenTar(archive, tokens.metadata, tokens.path)
        for table in timed_each("read", read_rows(tokens, plan.first, plan.last)):
            tar.append(table)
            count(ROWS, len(table))
        refuse_changed_input(tokens.path, tokens.digest)


def copy_shard(path: str, tokens: TokenDirectory, number: int) -> None:
    """Copy a token shard, whole or not at all; raises ShardError where it has other bytes than its manifest says."""
    shard, digest = tokens.shards[number], hashlib.sha256()
    with timed("write"), open_file(tokens.shard_path(number)) as source, publish(path) as file:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            file.write(block)
        if digest.hexdigest() != shard.sha256:
            raise ShardError(
                f"{tokens.shard_path(number)}: expected SHA-256 {shard.sha256[:12]} as the manifest states, found "
                f"{digest.hexdigest()[:12]}; see parti verify {tokens.path}"
            )
    count(ROWS, shard.rows)


def measure_copy(path: str, record: ShardRecord, tokens: TokenDirectory, number: int) -> int:
    """Return the bytes of a copied shard's rows in memory; raises ShardError where it is no copy or cannot be read."""
    shard = tokens.shards[number]
    if record.sha256 != shard.sha256:
        raise ShardError(
            f"{path}: expected a copy of {tokens.shard_path(number)}, found other bytes; remove it and export again"
        )
    groups = range(len(checked_groups(tokens, number)))
    return sum(read_row_group(path, group).nbytes for group in groups)


def export_tokens(config: ExportConfig, options: PipelineOptions) -> Manifest:
    """Write the token shards of a directory as another format and return the manifest."""
    tokens = open_token_directory(config.source)
    if not tokens.num_rows:
        raise ShardError(f"{config.source}: expected rows to export, found none; run {tokens.manifest.stage} first")
    beginning = Beginning(stage="export", config=config.deciding(), inputs={"source": tokens.digest})
    begun = begin(config.output, beginning)
    if isinstance(begun, Manifest):
        return begun
    sweep(join(config.output, FOLDER))
    plans = plan_files(tokens, config.rows_per_tar)
    export = Export(config.source, tokens.digest, config.output, config.format)
    card = CardText(config.card.title, config.card.license)
    pipeline = make_pipeline(options)
    _ = (
        pipeline
        | "Plans" >> beam.Create(plans, reshuffle=True)
        | ExportFiles(export)
        | "ToOneKey" >> beam.Map(lambda file: (0, file))
        | "GatherFiles" >> beam.GroupByKey()
        | "Finish" >> beam.MapTuple(lambda _, files: finish(begun, files, export, card))
    )
    with watch(_watched(plans, export)):
        run_recorded(pipeline, "export", config.output)
    return begun.finished()


def _watched(plans: list[ShardPlan], export: Export) -> Watched:
    rows = {file_name(plan, export.format).rpartition("/")[2]: plan.last - plan.first for plan in plans}
    folder = export.output if export.format == "webdataset" else join(export.output, FOLDER)
    return Watched("export", folder, rows, "rows")


def finish(directory: StageDirectory, files: Iterable[ExportedFile], export: Export, card: CardText) -> Manifest:
    """Write the metadata, the card of a data set of Hugging Face, and the manifest."""
    tokens = open_token_directory(export.source)
    exported = [ExportedFile(*file) for file in files]
    beside = {METADATA: metadata_json(tokens, export.format)}
    if export.format == "huggingface":
        num_bytes = sum(file.record.bytes for file in exported)
        arrow_bytes = sum(file.arrow_bytes for file in exported)
        shards = ExportedShards(tokens.metadata, tokens.num_rows, arrow_bytes, num_bytes, tokens.digest)
        beside[CARD] = write_card(card, shards).encode()
    for name, content in beside.items():
        if not is_file(join(export.output, name)):
            publish_bytes(join(export.output, name), content)
    records = [*(file.record for file in exported), *(record_shard(export.output, name, 0) for name in beside)]
    details = {"metadata": tokens.metadata.model_dump(mode="json")}
    return directory.finish(records, {"files": len(exported), "rows": tokens.num_rows}, details)


def metadata_json(tokens: TokenDirectory, kind: Format) -> bytes:
    """Return what made the tokens, and the manifest of the directory that they came from without this machine's paths.

    Of WebDataset tars it says too what their members are.
    """
    made = tokens.manifest.model_dump(mode="json")
    for name in ("places", "examples"):
        made["details"].pop(name, None)
    if isinstance(reading := made["details"].get("tokenizer"), dict):
        reading.pop("config", None)
    if isinstance(source := made["config"].get("source"), dict):  # of imported tokens
        made["config"]["source"] = {"kind": source.get("kind")}
    content = {"metadata": tokens.metadata.model_dump(mode="json"), "manifest": made, "manifest_sha256": tokens.digest}
    if kind == "webdataset":
        integers = tokens.metadata.token_type.__name__
        shape = ", ".join(str(size) for size in token_shape(tokens.metadata))
        content["members"] = {
            "npy": f"image tokens in raster order, {integers} ({shape})",
            "txt": "the first caption",
            "json": "key, view, box, flipped, captions, text_ids, source, source_key",
        }
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
