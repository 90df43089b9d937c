"""The job that trains a prior's text encoder on text alone, in one process or in several that torchrun started."""

from dataclasses import asdict
from typing import NamedTuple

import torch

from model.shapes import make_shape
from model.text_encoder import TextEncoderShape
from model.text_encoder_file import save_text_encoder
from model.training.joint_beginning import begin_on_ranks
from model.training.loop import train
from model.training.masked_text import MaskedText
from model.training.ranks import Ranks, join_ranks
from model.training.row_job import cut_text, finish_job, refuse_uneven, tell_skipped
from model.training.text_encoder_config import TrainTextEncoderConfig
from model.training.text_encoder_trainee import TextEncoderTrainee
from model.training.text_source import TextRows, TextSource
from parti_data.errors import ConfigError
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, read_manifest
from parti_data.storage import join
from parti_data.token_dataset import TokenDataset
from parti_data.token_rows import Share

__all__ = ["TrainTextEncoderConfig", "train_text_encoder"]

TEXT_ENCODER = "text_encoder.safetensors"
INDEXES = {"source": "lines.parquet", "held_out": "held_out_lines.parquet"}
"""Where lines of plain text lie."""


class _Text(NamedTuple):
    """What is trained on, and what is measured on."""

    source: TextSource
    held_out: TextSource | None

    def named(self) -> dict[str, TextSource]:
        """Return those that there are by their keys in the config."""
        return {"source": self.source} | ({"held_out": self.held_out} if self.held_out else {})


def train_text_encoder(config: TrainTextEncoderConfig) -> Manifest:
    """Train and write a text encoder; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        refuse_uneven(config.batch_size, config.batch_parts, ranks)
        text = _find_text(config)
        size = text.source.text_vocabulary_size
        shape = make_shape(TextEncoderShape, config.architecture, text_vocabulary_size=size)
        inputs = {name: source.digest for name, source in text.named().items()}
        inputs["text_tokenizer"] = text.source.text_tokenizer
        beginning = Beginning(stage="train_text_encoder", config=config.deciding(), inputs=inputs)
        begun = begin_on_ranks(ranks, config.output, lambda: begin(config.output, beginning))
        if isinstance(begun, Manifest):
            return begun
        rows, held_out = _open_rows(config, text, ranks)
        torch.manual_seed(config.seed)
        trainee = TextEncoderTrainee(config, MaskedText(shape), rows, held_out, ranks)
        train(trainee, config.schedule, config.output, "train text encoder", config.running, ranks)
        skipped = tell_skipped(rows, "train text encoder", ranks) if isinstance(rows, TokenDataset) else {}
        if isinstance(begun, StageDirectory):
            encoder = trainee.trained.text_encoder
            save_text_encoder(encoder, shape, text.source.text_tokenizer, join(config.output, TEXT_ENCODER))
            files = [TEXT_ENCODER, *(INDEXES[name] for name, found in text.named().items() if found.has_lines)]
            told = {"shape": asdict(shape), "text_tokenizer": text.source.text_tokenizer}
            finish_job(begun, config, encoder, files, rows.num_rows, **told, **skipped)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _find_text(config: TrainTextEncoderConfig) -> _Text:
    """Return the text, what is measured without dropout; raises ConfigError where the two have other tokenizers."""
    text = cut_text(config, make_shape(TextEncoderShape, config.architecture).max_text_length)
    source = TextSource(config.source, "source", text, config.reading)
    if not config.held_out:
        return _Text(source, None)
    plain = text.model_copy(update={"bpe_dropout": 0.0})
    held_out = TextSource(config.held_out, "held_out", plain, config.held_out_reading)
    if held_out.text_tokenizer != source.text_tokenizer:
        raise ConfigError(
            f"held_out: expected ids of the text tokenizer {source.text_tokenizer[:12]} as in {config.source}, found "
            f"{held_out.text_tokenizer[:12]} in {config.held_out}; name one by text.tokenizer for both"
        )
    return _Text(source, held_out)


def _open_rows(config: TrainTextEncoderConfig, text: _Text, ranks: Ranks) -> tuple[TextRows, TextRows | None]:
    """Return the rows of a rank, and those that the first rank measures, in batches as large as a part of its own."""
    indexes = {name: join(config.output, INDEXES[name]) for name in INDEXES}
    if ranks.is_first:
        for name, source in text.named().items():
            source.index(indexes[name])
    ranks.from_first(None)  # wait for the indexes
    share = Share(ranks.rank, ranks.world_size)
    rows = text.source.rows(indexes["source"], config.batch_size, config.seed, share)
    if not text.held_out:
        return rows, None
    size = config.batch_size // (ranks.world_size * config.batch_parts)
    return rows, text.held_out.rows(indexes["held_out"], size, 0, Share())
