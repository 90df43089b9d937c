"""The job that trains a Parti prior on token shards."""

from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from model.priors.parti import Parti, PartiShape, drop_text
from model.priors.prior_file import save_prior
from model.shapes import make_shape
from model.training.checkpoint import METRICS
from model.training.loop import Evaluation, Schedule, train
from model.training.token_batches import StepBatches
from parti_data.caption_ids import TextReading
from parti_data.config import StageConfig
from parti_data.errors import ShardError
from parti_data.manifest import Beginning, Manifest, begin, record_shard
from parti_data.storage import join
from parti_data.token_dataset import TokenDataset, refuse_unlike
from parti_data.token_rows import ShardReading
from parti_data.token_shard import ShardMetadata

PRIOR = "prior.safetensors"
_DEVICE = torch.device("cpu")


class TrainPriorConfig(StageConfig):
    """What `parti train prior` is told."""

    source: str | dict[str, float]
    """A directory of token shards, or several with their weights."""
    held_out: str = ""
    """Another such directory, on which the loss is measured; empty: not measured."""
    architecture: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Fields of PartiShape that differ from Parti-350M; vocabulary, codebook and grid come from the shards."""
    text: TextReading = Field(default_factory=TextReading)
    """Which captions are learned, and their ids; of the latter no more than `architecture.max_text_length`."""
    reading: ShardReading = Field(default_factory=ShardReading)
    text_drop: float = 0.1
    """Share of rows trained without text, for classifier-free guidance. Parti does not state its own."""
    schedule: Schedule
    batch_size: PositiveInt = 8192
    seed: int = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"source", "held_out", "reading"})


class _PriorTrainee:
    """A prior with its data."""

    def __init__(
        self, config: TrainPriorConfig, shape: PartiShape, tokens: TokenDataset, held_out: TokenDataset | None
    ):
        torch.manual_seed(config.seed)
        self.model: Parti = Parti(shape)
        self._config, self._held_out = config, held_out
        self._batches = StepBatches(tokens, _DEVICE)
        self.networks: dict[str, nn.Module] = {"model": self.model}
        self.batch_size, self.num_parts = config.batch_size, 1

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the cross-entropy of the step's batch, some of its rows without text."""
        batch = self._batches.get(step)
        luck = np.random.default_rng([self._config.seed, step, 2]).random(len(batch.keys))
        text_ids = drop_text(batch.text_ids, torch.from_numpy(luck < self._config.text_drop))
        return {"total": self.model.loss(text_ids, batch.image_tokens)}

    def after_step(self, step: int) -> None:
        """Nothing follows an update."""

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Return the loss on the held-out rows, in nats a token."""
        if self._held_out is None:
            return Evaluation({}, {})
        self.model.eval()
        count = max(self._held_out.num_rows // self._held_out.batch_size, 1)
        batches = StepBatches(self._held_out, _DEVICE)
        losses = [float(self.model.loss(*batches.get(number)[1:])) for number in range(count)]
        return Evaluation({"held_out_loss": round(float(np.mean(losses)), 4)}, {})

    def keys(self, step: int) -> list[str]:
        """Return the keys of the step's rows."""
        return list(self._batches.get(step).keys)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: model, optimizer and step are all of the state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


def shape_for(metadata: ShardMetadata, architecture: dict[str, Any]) -> PartiShape:
    """Return the architecture that fits the shards; raises ConfigError, or ShardError where they have no raster."""
    if metadata.num_quantizers > 1:
        raise ShardError(
            f"source: expected one token a position, found {metadata.num_quantizers} of a residual "
            f"{metadata.image_tokenizer_name}; tokenize with a tokenizer without a residual to train a prior"
        )
    return make_shape(
        PartiShape,
        architecture,
        text_vocabulary_size=metadata.text_vocabulary_size,
        codebook_size=metadata.codebook_size,
        grid_side=metadata.grid_side,
    )


def _open_tokens(config: TrainPriorConfig) -> tuple[TokenDataset, TokenDataset | None]:
    """Return what is trained on, and what is measured on, whose captions are cut as they are without dropout."""
    longest = make_shape(PartiShape, config.architecture).max_text_length
    text = config.text.model_copy(update={"length": min(config.text.length, longest)})
    tokens = TokenDataset(config.source, config.batch_size, config.seed, text=text, reading=config.reading)
    if not config.held_out:
        return tokens, None
    plain = text.model_copy(update={"bpe_dropout": 0.0})
    held_out = TokenDataset(config.held_out, config.batch_size, text=plain, reading=config.reading)
    refuse_unlike([*tokens.directories, *held_out.directories], plain)
    return tokens, held_out


def train_prior(config: TrainPriorConfig) -> Manifest:
    """Train and write a prior; return the manifest."""
    tokens, held_out = _open_tokens(config)
    metadata = tokens.metadata.model_copy(
        update={"text_tokenizer": tokens.text_tokenizer, "text_vocabulary_size": tokens.text_vocabulary_size}
    )
    shape = shape_for(metadata, config.architecture)
    inputs = {"source": tokens.digest} | ({"held_out": held_out.digest} if held_out else {})
    begun = begin(config.output, Beginning(stage="train_prior", config=config.deciding(), inputs=inputs))
    if isinstance(begun, Manifest):
        return begun
    trainee = _PriorTrainee(config, shape, tokens, held_out)
    train(trainee, config.schedule, config.output, "train prior")
    save_prior(trainee.model, metadata, join(config.output, PRIOR))
    parameters = sum(parameter.numel() for parameter in trainee.model.parameters())
    return begun.finish(
        [record_shard(config.output, name, 0) for name in (PRIOR, METRICS)],
        {"rows": tokens.num_rows},
        {
            "shape": asdict(shape),
            "parameters": parameters,
            "metadata": metadata.model_dump(mode="json"),
        },
    )
