"""What the jobs share that train on token shards: what they open, and what they begin with."""

from dataclasses import asdict, fields
from typing import Any, Generic, NamedTuple, TypeVar

from model.priors.prior import PriorShape
from model.shapes import make_shape
from model.text_encoder import TextEncoder, TextEncoderShape
from model.training.pair_config import TrainOnPairsConfig
from model.training.ranks import Ranks
from model.training.row_job import cut_text
from model.training.warm_start import read_start
from parti_data.errors import ConfigError, ShardError
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin
from parti_data.storage import sha256_file
from parti_data.token_dataset import TokenDataset, refuse_unlike
from parti_data.token_directory import class_names
from parti_data.token_shard import ShardMetadata

S = TypeVar("S", bound=TextEncoderShape | PriorShape)


class Measuring(NamedTuple):
    """Who measures, so many held-out rows at a time."""

    ranks: Ranks
    batch_size: int


class Pairs(NamedTuple, Generic[S]):
    """What is learned from, with which architecture."""

    tokens: TokenDataset
    held_out: TokenDataset | None
    metadata: ShardMetadata
    """Of the shards, with the text tokenizer that gives the ids."""
    shape: S
    start: TextEncoder | None
    """What a network's text encoder begins as; none: drawn."""

    def told(self) -> dict[str, Any]:
        """Return what a manifest tells of them."""
        return {"shape": asdict(self.shape), "metadata": self.metadata.model_dump(mode="json")}

    def begin_text_encoder(self, network: Any) -> None:
        """Give a new network's text encoder the weights that it begins with, where there are some."""
        if self.start:
            network.text_encoder.load_state_dict(self.start.state_dict())


def open_pairs(config: TrainOnPairsConfig, kind: type[S], ranks: Ranks, measuring: Measuring) -> Pairs[S]:
    """Return a rank's share of the data, and what is measured, its captions cut as they are without dropout.

    Raises ConfigError for an architecture or a beginning that does not fit them, ShardError where the two are unlike.
    """
    text = cut_text(config, make_shape(kind, config.architecture).most_text_ids)
    place = ranks.rank, ranks.world_size
    tokens = TokenDataset(config.source, config.batch_size, config.seed, *place, text=text, reading=config.reading)
    held_out = None
    if config.held_out:
        plain = text.model_copy(update={"bpe_dropout": 0.0})
        place = measuring.ranks.rank, measuring.ranks.world_size
        held_out = TokenDataset(
            config.held_out, measuring.batch_size, 0, *place, text=plain, reading=config.held_out_reading
        )
        refuse_unlike([*tokens.directories, *held_out.directories], plain)
    given = {"text_tokenizer": tokens.text_tokenizer, "text_vocabulary_size": tokens.text_vocabulary_size}
    metadata = tokens.metadata.model_copy(update=given)
    shape = _shape_of_pairs(kind, tokens, held_out, metadata, config.architecture)
    return Pairs(tokens, held_out, metadata, shape, _read_start(config, shape, metadata.text_tokenizer))


def _read_start(config: TrainOnPairsConfig, shape: Any, text_tokenizer: str) -> TextEncoder | None:
    if not config.start_from:
        return None
    if not isinstance(shape, TextEncoderShape):
        raise ConfigError(
            "start_from: expected a network with a text encoder, found one without; leave it out or take family parti"
        )
    return read_start(config.start_from, shape, text_tokenizer)


def _shape_of_pairs(
    kind: type[S],
    tokens: TokenDataset,
    held_out: TokenDataset | None,
    metadata: ShardMetadata,
    architecture: dict[str, Any],
) -> S:
    """Return the architecture that fits the shards; raises ConfigError, or ShardError where they have no raster, or not
    the classes that it takes.
    """
    if metadata.num_quantizers > 1:
        raise ShardError(
            f"source: expected one token a position, found {metadata.num_quantizers} of a residual "
            f"{metadata.image_tokenizer_name}; tokenize with a tokenizer without a residual"
        )
    told: dict[str, Any] = {
        "text_vocabulary_size": metadata.text_vocabulary_size,
        "codebook_size": metadata.codebook_size,
        "grid_side": metadata.grid_side,
        "classes": _classes(tokens, held_out) if architecture.get("class_conditional") else (),
    }
    known = {field.name for field in fields(kind)}
    return make_shape(kind, architecture, **{name: value for name, value in told.items() if name in known})


def _classes(tokens: TokenDataset, held_out: TokenDataset | None) -> tuple[str, ...]:
    """Return the classes that captions name; raises ShardError where held-out ones name others."""
    classes = class_names(tokens.directories)
    if held_out and (others := sorted(set(class_names(held_out.directories)) - set(classes))):
        raise ShardError(
            f"held_out: expected captions that name one of the {len(classes)} classes of source, found {others[0]!r}; "
            "hold out pairs of the same classes, or train without class_conditional"
        )
    return tuple(classes)


def begin_on_pairs(stage: str, config: TrainOnPairsConfig, pairs: Pairs[Any]) -> StageDirectory | Manifest:
    """Return the directory to fill, or its manifest where it is finished."""
    inputs = {"source": pairs.tokens.digest} | ({"held_out": pairs.held_out.digest} if pairs.held_out else {})
    inputs |= {"start_from": sha256_file(config.start_from)} if config.start_from else {}
    inputs |= {"text_tokenizer": pairs.metadata.text_tokenizer} if config.text.tokenizer else {}
    return begin(config.output, Beginning(stage=stage, config=config.deciding(), inputs=inputs))
