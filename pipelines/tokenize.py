"""The tokenize stage: kept pairs to token shards, in two phases, encode and gather."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Self

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.transforms.resources import parse_resource_hints
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from model.tokenizers import RECORD, Execution, Reading, refuse_missing
from parti_data.config import Place, StageConfig, StrictModel
from parti_data.errors import SourceError
from parti_data.ledger import PairDirectory
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, is_begun, manifest_digest, record_shard
from parti_data.quality import SHEET, QualityFloors, RunQuality
from parti_data.storage import digest_json, join, publish_bytes, read_bytes, remove, sweep
from parti_data.token_directory import METADATA, ROW_GROUP
from parti_data.token_shard import ROW_GROUP_ROWS
from parti_data.views import Views
from pipelines.encode_images import (
    EncodeImages,
    EncodePlan,
    Encoding,
    open_tokenizers,
    shard_metadata,
    sheet_path,
)  # fmt: skip
from pipelines.gather_tokens import GatheredShard, TokenStage, run_to_shards
from pipelines.slice_gate import read_quality
from pipelines.token_fragments import FRAGMENTS, count_shards, fragment_path


class Resources(StrictModel):
    """What the workers that encode should have, on engines that choose machines by step, as Dataflow does."""

    accelerator: str = ""
    """As Dataflow writes it: type:nvidia-l4;count:1;install-nvidia-driver."""
    min_ram: str = ""
    """For instance 16GB."""

    @model_validator(mode="after")
    def _refuse_hints_that_beam_cannot_read(self) -> Self:
        self.hints()
        return self

    def hints(self) -> dict[str, str]:
        """Return the hints that are given, by Beam's names; raises ValueError."""
        given = {name: value for name, value in self.model_dump().items() if value}
        parse_resource_hints(given)
        return given


class TokenizeConfig(StageConfig):
    """What `parti tokenize` is told."""

    source: Place
    """A directory that filter or shard finished."""
    image_tokenizer: str
    """The file that train tokenizer wrote, or a published one."""
    tokenizer: Reading = Field(default_factory=Reading)
    """How a published one is read; its fingerprint holds what of it decides a token."""
    text_tokenizer: str
    """The SentencePiece model that train text wrote."""
    rows_per_shard: PositiveInt = 32_768
    rows_per_fragment: PositiveInt = 8192
    seed: int = 0
    """Decides the order of rows over all shards."""
    views: Views = Field(default_factory=Views)
    """What is cut out of each picture; a row for each."""
    execution: Execution = RECORD
    """Where and how workers encode; another way may give other tokens for a few positions, so it decides them too."""
    decode_processes: NonNegativeInt = 0
    """How many processes decode and resize for the encoder, in each process that encodes; with 0 a thread does. For
    GPUs, which take more pictures than a thread decodes."""
    resources: Resources = Field(default_factory=Resources)
    quality: QualityFloors = Field(default_factory=QualityFloors)
    """Where the run stops because its tokens are no good."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset(
        {"source", "image_tokenizer", "tokenizer", "text_tokenizer", "resources", "quality", "decode_processes"}
    )
    OPENED_BY_WORKERS: ClassVar[tuple[str, ...]] = ("image_tokenizer", "tokenizer.config", "text_tokenizer")

    @property
    def pairs_per_fragment(self) -> int:
        """How many pairs make a slice."""
        return max(self.rows_per_fragment // self.views.num_views, 1)


def tokenize_pairs(config: TokenizeConfig, options: PipelineOptions) -> Manifest:
    """Write the token shards of a filter or shard directory and return the manifest."""
    pairs = PairDirectory(config.source)
    if not len(pairs):
        raise SourceError(f"{config.source}: expected kept pairs, found none; see its ledger for the reasons")
    image_tokenizer, text_tokenizer = open_tokenizers(
        config.image_tokenizer, config.text_tokenizer, reading=config.tokenizer
    )
    inputs = {
        "source": manifest_digest(config.source),
        "image_tokenizer": image_tokenizer.fingerprint,
        "text_tokenizer": text_tokenizer.fingerprint,
    }
    if not is_begun(config.output):  # once it is, it takes no other config
        config.views.library(image_tokenizer.spec.resize_recipe)
        if not options.view_as(StandardOptions).runner:
            refuse_missing(config.execution)
    begun = begin(config.output, Beginning(stage="tokenize", config=config.deciding(), inputs=inputs))
    fragments = join(config.output, FRAGMENTS)
    if isinstance(begun, StageDirectory):
        sweep(fragments)
        metadata = shard_metadata(
            image_tokenizer,
            text_tokenizer,
            digest_json(config.deciding()),
            inputs["source"],
            config.views,
            config.execution,
        )
        encoding = Encoding(
            config.source, config.image_tokenizer, config.text_tokenizer, metadata,
            count_shards(len(pairs) * config.views.num_views, config.rows_per_shard), config.seed, config.output,
            config.execution, config.tokenizer, config.views, config.quality, config.decode_processes,
        )  # fmt: skip
        plans = plan_fragments(len(pairs), config.pairs_per_fragment)
        encode = EncodeImages(encoding)
        encode.with_resource_hints(**config.resources.hints())
        rows = [(plan.last - plan.first) * config.views.num_views for plan in plans]
        done = partial(finish, begun, encoding=encoding, num_fragments=len(plans))
        run_to_shards(TokenStage("tokenize", plans, rows, encode, done), encoding.gathering(len(plans)), options)
        begun = begun.finished()
    remove(fragments)
    return begun


def plan_fragments(num_pairs: int, pairs_per_fragment: int) -> list[EncodePlan]:
    """Split the kept rows into slices of at most so many pairs."""
    starts = range(0, num_pairs, pairs_per_fragment)
    return [EncodePlan(n, start, min(start + pairs_per_fragment, num_pairs)) for n, start in enumerate(starts)]


def finish(
    directory: StageDirectory, gathered: Iterable[GatheredShard], encoding: Encoding, num_fragments: int
) -> Manifest:
    """Write the contact sheet of the first slice, and the manifest from what is told of all shards and slices."""
    shards = sorted(gathered, key=lambda shard: shard.record.name)
    rows = sum(shard.record.rows for shard in shards)
    places = {"source": encoding.source} | {
        "image_tokenizer": encoding.image_tokenizer,
        "text_tokenizer": encoding.text_tokenizer,
    }
    counts = {"pairs": rows // encoding.views.num_views, "rows": rows}
    publish_bytes(join(encoding.output, SHEET), read_bytes(sheet_path(encoding.output, 0)))
    slices = [read_quality(fragment_path(encoding.output, number)) for number in range(num_fragments)]
    quality = RunQuality(
        floors=encoding.quality,
        sheet=record_shard(encoding.output, SHEET, 0),
        sample=slices[0].sample,
        precision=slices[0].precision,
        slices=slices,
        shards={shard.record.name: shard.quality for shard in shards},
    )
    details = {
        METADATA: encoding.metadata.model_dump(mode="json"),
        ROW_GROUP: ROW_GROUP_ROWS,
        "places": places,
        "tokenizer": encoding.reading.model_dump(exclude_defaults=True),
        "quality": quality.details(),
    }
    return directory.finish([shard.record for shard in shards], counts, details)
