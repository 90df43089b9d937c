"""The job that trains a contrastive model on token shards, in one process or in several that torchrun started."""

from dataclasses import asdict

import torch

from model.contrastive import Contrastive, ContrastiveShape, save_contrastive
from model.training.contrastive_config import TrainContrastiveConfig
from model.training.contrastive_trainee import ContrastiveTrainee
from model.training.loop import train
from model.training.ranks import Ranks, join_ranks
from model.training.row_job import (
    cut_text,
    finish_job,
    open_held_out,
    refuse_uneven,
    shape_of_pairs,
    start_digest,
    text_metadata,
)  # fmt: skip
from model.training.warm_start import read_start
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, read_manifest
from parti_data.storage import join
from parti_data.token_dataset import TokenDataset

__all__ = ["TrainContrastiveConfig", "train_contrastive"]

CONTRASTIVE = "contrastive.safetensors"


def train_contrastive(config: TrainContrastiveConfig) -> Manifest:
    """Train and write a contrastive model; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        refuse_uneven(config.batch_size, 1, ranks)
        tokens, held_out = _open_tokens(config, ranks)
        metadata = text_metadata(tokens)
        shape = shape_of_pairs(ContrastiveShape, metadata, config.architecture)
        start = read_start(config.start_from, shape, metadata.text_tokenizer)
        inputs = {"source": tokens.digest} | ({"held_out": held_out.digest} if held_out else {})
        inputs |= start_digest(config.start_from)
        beginning = Beginning(stage="train_contrastive", config=config.deciding(), inputs=inputs)
        begun = begin(config.output, beginning) if ranks.is_first else None
        if ranks.from_first(isinstance(begun, Manifest)):
            return read_manifest(config.output)
        torch.manual_seed(config.seed)
        network = Contrastive(shape)
        if start:
            network.text_encoder.load_state_dict(start.state_dict())
        trainee = ContrastiveTrainee(config, network, tokens, held_out, ranks)
        train(trainee, config.schedule, config.output, "train contrastive", config.running, ranks)
        if isinstance(begun, StageDirectory):
            save_contrastive(trainee.trained, metadata, join(config.output, CONTRASTIVE))
            told = {"shape": asdict(shape), "metadata": metadata.model_dump(mode="json")}
            finish_job(begun, config, trainee.trained, [CONTRASTIVE], tokens.num_rows, **told)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _open_tokens(config: TrainContrastiveConfig, ranks: Ranks) -> tuple[TokenDataset, TokenDataset | None]:
    """Return what is trained on, and what the first rank measures, in batches as large as its own."""
    text = cut_text(config, ContrastiveShape, config.architecture)
    place = ranks.rank, ranks.world_size
    tokens = TokenDataset(config.source, config.batch_size, config.seed, *place, text=text, reading=config.reading)
    if not config.held_out:
        return tokens, None
    size = config.batch_size // ranks.world_size
    return tokens, open_held_out(config.held_out, tokens, config, text, size, Ranks())
