"""The import-tokens stage: tokens that another project made to token shards, in two phases, read and gather.

What made the tokens is told by the tokenizer's file, or declared; only tokens of one making can be mixed. Images are
not there, so an image's key is that of the tokens of its first view: see `tokens_key`.
"""

from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from typing import Annotated, ClassVar, NamedTuple, Self

from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import Field, PositiveInt, model_validator

from model.tokenizers import Reading, open_tokenizer
from parti_data.config import StageConfig, StrictModel
from parti_data.errors import ConfigError, SourceError
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin
from parti_data.storage import digest_json, join, remove, sweep
from parti_data.text import TextTokenizer
from parti_data.token_shard import ShardMetadata
from parti_data.token_sources import TokenSource
from parti_data.token_sources.import_counts import ImportCounts, sum_counts
from parti_data.token_sources.token_grid import TokenGrid
from parti_data.token_sources.tokenized import Listing
from pipelines.gather_tokens import GatheredShard, TokenStage, run_to_shards
from pipelines.read_tokens import Importing, ReadPlan, ReadTokens, read_counts, to_rows
from pipelines.token_fragments import FRAGMENTS, Gathering, count_shards, fragment_path

UNKNOWN = "unknown"
"""What a shard's metadata say of how pictures were prepared and encoded."""
_LOOKED_AT = 64
"""So many images are looked at before anything is begun."""
_MOST_CODES, _MOST_TOKENS_A_SIDE, _MOST_SIDE_PX = 1 << 24, 1 << 10, 1 << 16


class DeclaredTokens(StrictModel):
    """What made the tokens, where its file is not at hand."""

    name: str = Field(min_length=1)
    """The same name for the same tokenizer, such as dalle-mini/vqgan_imagenet_f16_16384."""
    codebook_size: Annotated[int, Field(gt=0, le=_MOST_CODES)]
    grid_side: Annotated[int, Field(gt=0, le=_MOST_TOKENS_A_SIDE)]
    """Tokens a side."""
    image_side: Annotated[int, Field(gt=0, le=_MOST_SIDE_PX)]
    """Pixels."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the declaration, which stands for that of the tokenizer."""
        return digest_json(["declared", self.model_dump(mode="json")])


class MadeBy(NamedTuple):
    """What made the tokens."""

    fingerprint: str
    name: str
    grid: TokenGrid
    image_side: int


class ImportTokensConfig(StageConfig):
    """What `parti import-tokens` is told."""

    source: TokenSource
    image_tokenizer: str = ""
    """The file of the tokenizer that made the tokens, ours or a published one."""
    tokenizer: Reading = Field(default_factory=Reading)
    """How a published one is read; its fingerprint holds what of it decides a token."""
    tokens: DeclaredTokens | None = None
    """What made the tokens, in place of its file."""
    text_tokenizer: str
    """The SentencePiece model that captions are tokenized with."""
    rows_per_shard: PositiveInt = 32_768
    rows_per_fragment: PositiveInt = 8192
    seed: int = 0
    """Decides the order of rows over all shards."""
    max_dropped_fraction: float = Field(default=0.01, ge=0, le=1)
    """A run that drops a larger share of the images fails."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset(
        {"image_tokenizer", "tokenizer", "text_tokenizer", "max_dropped_fraction"}
    )
    OPENED_BY_WORKERS: ClassVar[tuple[str, ...]] = (
        "text_tokenizer", "source.labels", "source.class_names", "source.captions"
    )  # fmt: skip

    @model_validator(mode="after")
    def _refuse_two_makers_and_none(self) -> Self:
        if bool(self.image_tokenizer) == bool(self.tokens):
            raise ConfigError(
                "image_tokenizer, tokens: expected one of them, the file that made the tokens or a table that declares "
                f"it, found {'both; leave one out' if self.tokens else 'none; add one'}"
            )
        if self.tokens and self.tokenizer != Reading():
            raise ConfigError(
                "tokenizer: expected none without the image_tokenizer that it tells how to read, found one; leave it "
                "out"
            )
        return self

    def made_by(self) -> MadeBy:
        """Return what made the tokens; raises TokenizerError where its file cannot be opened."""
        if self.tokens:
            grid = TokenGrid(self.tokens.codebook_size, self.tokens.grid_side)
            return MadeBy(self.tokens.fingerprint(), self.tokens.name, grid, self.tokens.image_side)
        tokenizer = open_tokenizer(self.image_tokenizer, self.tokenizer)
        spec = tokenizer.spec
        grid = TokenGrid(spec.codebook_size, spec.grid_side, spec.num_quantizers)
        return MadeBy(tokenizer.fingerprint, spec.name, grid, spec.image_side)


def import_tokens(config: ImportTokensConfig, options: PipelineOptions) -> Manifest:
    """Write the token shards of a source of tokens and return the manifest."""
    text_tokenizer, made_by = TextTokenizer(config.text_tokenizer), config.made_by()
    listing = config.source.slices(config.rows_per_fragment)
    inputs = {
        "source": listing.digest,
        "image_tokenizer": made_by.fingerprint,
        "text_tokenizer": text_tokenizer.fingerprint,
    }
    metadata = import_metadata(config, made_by, text_tokenizer, listing.digest)
    gathering = Gathering(config.output, metadata, 0, 0, config.seed, may_repeat=True)
    importing = Importing(config.source, config.text_tokenizer, gathering)
    num_views = look_at_first(listing, importing, text_tokenizer, config.max_dropped_fraction)
    begun = begin(config.output, Beginning(stage="import_tokens", config=config.deciding(), inputs=inputs))
    fragments = join(config.output, FRAGMENTS)
    if isinstance(begun, StageDirectory):
        sweep(fragments)
        if num_views > 1:
            listing = config.source.slices(max(config.rows_per_fragment // num_views, 1))
        plans = [ReadPlan(number, part) for number, part in enumerate(listing.slices)]
        num_shards = count_shards(listing.num_images * num_views, config.rows_per_shard)
        importing = importing._replace(gathering=gathering._replace(num_fragments=len(plans), num_shards=num_shards))
        done = partial(finish, begun, config=config, importing=importing)
        rows = [plan.part.num_images * num_views for plan in plans]
        stage = TokenStage("import_tokens", plans, rows, ReadTokens(importing), done)
        run_to_shards(stage, importing.gathering, options)
        begun = begun.finished()
    remove(fragments)
    return begun


def look_at_first(listing: Listing, importing: Importing, text_tokenizer: TextTokenizer, allowed: float) -> int:
    """Return how many views the first image that can be taken has; raises SourceError where no early one can be."""
    source = importing.source
    images = chain.from_iterable(map(source.read, listing.slices))
    counts = ImportCounts()
    first = list(islice(images, _LOOKED_AT))
    rows = list(to_rows(first, source.path, importing, text_tokenizer, counts))
    if not first:
        raise SourceError(f"{source.path}: expected tokens, found none; check source.path")
    if not rows:
        counts.refuse(source.path, allowed, importing.grid)
    firsts = [place for place, row in enumerate(rows) if row.view == 0]
    return firsts[1] if len(firsts) > 1 else max(len(rows), 1)


def import_metadata(
    config: ImportTokensConfig, made_by: MadeBy, text_tokenizer: TextTokenizer, input_digest: str
) -> ShardMetadata:
    """Return what every shard says of its making."""
    return ShardMetadata(
        image_tokenizer=made_by.fingerprint,
        image_tokenizer_name=made_by.name,
        codebook_size=made_by.grid.codebook_size,
        grid_side=made_by.grid.grid_side,
        num_quantizers=made_by.grid.num_quantizers,
        image_side=made_by.image_side,
        resize_recipe=UNKNOWN,
        resize_library=UNKNOWN,
        precision=UNKNOWN,
        device=UNKNOWN,
        backend=UNKNOWN,
        text_tokenizer=text_tokenizer.fingerprint,
        text_vocabulary_size=text_tokenizer.vocabulary_size,
        config_digest=digest_json(config.deciding()),
        input_digest=input_digest,
    )


def finish(
    directory: StageDirectory, gathered: Iterable[GatheredShard], config: ImportTokensConfig, importing: Importing
) -> Manifest:
    """Write the manifest from what is told of all shards and slices; raises SourceError where too much was dropped."""
    shards = sorted(gathered, key=lambda shard: shard.record.name)
    gathering = importing.gathering
    counts = sum_counts(
        read_counts(fragment_path(gathering.output, number)) for number in range(gathering.num_fragments)
    )
    counts.refuse(config.source.path, config.max_dropped_fraction, importing.grid)
    rows = sum(shard.record.rows for shard in shards)
    told = {
        "read": counts.read,
        "dropped": counts.dropped.total(),
        **{f"dropped_{reason}": number for reason, number in sorted(counts.dropped.items())},
        "repeated": counts.rows - rows,
        "rows": rows,
    }
    details = {
        "metadata": gathering.metadata.model_dump(mode="json"),
        "places": {
            "source": config.source.path,
            "image_tokenizer": config.image_tokenizer,
            "text_tokenizer": config.text_tokenizer,
        },
        "tokenizer": config.tokenizer.model_dump(exclude_defaults=True),
        "examples": dict(sorted(counts.examples.items())),
        "shards": {shard.record.name: shard.quality.model_dump(mode="json") for shard in shards},
    }
    return directory.finish([shard.record for shard in shards], told, details)
