"""The job that trains a ViT-VQGAN on images, in one process or in several that torchrun started."""

from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from model.shapes import make_shape
from model.tokenizers.own_file import read_own_tokenizer, save_tokenizer
from model.tokenizers.vit_vqgan import ViTVQGAN, ViTVQGANShape, with_new_decoder
from model.training.checkpoint import METRICS
from model.training.discriminator import refuse_side
from model.training.loop import drawn_name, train
from model.training.perceptual import load_perceptual, refuse_small
from model.training.ranks import Ranks, join_ranks
from model.training.reconstructions import draw_reconstructions, measure_tokenizer
from model.training.tokenizer_config import CodebookCare, TrainTokenizerConfig
from model.training.tokenizer_images import (
    TrainingImages,
    count_dropped,
    index_files,
    input_digests,
    open_images,
    refuse_unfit_directories,
)
from model.training.tokenizer_trainee import DRAWN_PICTURES, TokenizerTrainee, measured_pictures
from parti_data.errors import ConfigError
from parti_data.image_dataset import Reading
from parti_data.images import to_png
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, read_manifest, record_shard
from parti_data.progress import print_line
from parti_data.storage import join, publish_bytes, sha256_file

__all__ = ["CodebookCare", "TrainTokenizerConfig", "train_tokenizer"]

TOKENIZER = "tokenizer.safetensors"
RECONSTRUCTIONS = "reconstructions.png"
_NO_VGG16 = (
    "train tokenizer: no weights of VGG16 (vgg16=PATH), so it goes on without the perceptual term; "
    "loss_weights.perceptual=0 says that this is meant"
)
_NEVER_QUANTIZED = (
    "train tokenizer: codebook.continuous_steps={continuous} leaves none of the {steps} steps for quantizing: the "
    "codebook stays as it began"
)


def train_tokenizer(config: TrainTokenizerConfig) -> Manifest:
    """Train, measure and write a tokenizer; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        shape = make_shape(ViTVQGANShape, dict(config.architecture))
        _refuse_unfit(config, shape.image_side, ranks)
        perceptual = load_perceptual(config.vgg16, config.lpips) if config.vgg16 else None
        torch.manual_seed(config.seed)
        network = make_network(config, shape)
        network.recompute_blocks = config.recompute_blocks
        begun = _begin(config) if ranks.is_first else None
        if ranks.from_first(isinstance(begun, Manifest)):
            return read_manifest(config.output)
        if config.loss_weights.perceptual and not perceptual and ranks.is_first:
            print_line(_NO_VGG16)
        images = open_images(config, shape.image_side, ranks)
        trainee = TokenizerTrainee(config, network, images, ranks, perceptual)
        with closing(images.pictures):
            train(trainee, config.schedule, config.output, "train tokenizer", config.running, ranks)
        if isinstance(begun, StageDirectory):
            _finish(begun, config, trainee, images)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _refuse_unfit(config: TrainTokenizerConfig, image_side: int, ranks: Ranks) -> None:
    """Raise ConfigError, before anything is begun, for what a run would stumble over and another config mends."""
    slice_size = Reading(ranks.rank, ranks.world_size).share(config.batch_size)
    if slice_size % config.batch_parts:
        raise ConfigError(
            f"batch_parts: expected a divisor of the {slice_size} images a rank, found {config.batch_parts}; change "
            "one of them"
        )
    if config.adversarial:
        refuse_side(image_side)
    if config.vgg16:
        refuse_small(image_side)
    refuse_unfit_directories(config)
    care, num_steps = config.codebook, config.schedule.num_steps
    if config.train == "all" and care.continuous_steps >= num_steps and ranks.is_first:
        print_line(_NEVER_QUANTIZED.format(continuous=care.continuous_steps, steps=num_steps))


def _begin(config: TrainTokenizerConfig) -> StageDirectory | Manifest:
    files = {"start_from": config.start_from, "vgg16": config.vgg16, "lpips": config.lpips}
    inputs = input_digests(config) | {name: sha256_file(path) for name, path in files.items() if path}
    return begin(config.output, Beginning(stage="train_tokenizer", config=config.deciding(), inputs=inputs))


def make_network(config: TrainTokenizerConfig, shape: ViTVQGANShape) -> ViTVQGAN:
    """Return the network to begin with: new, or with the encoder and codebook of another; raises ConfigError."""
    if not config.start_from:
        if config.train == "decoder":
            raise ConfigError(
                "start_from: expected the tokenizer whose decoder is trained, found none; give the file that it was "
                "saved in"
            )
        return ViTVQGAN(shape)
    network = with_new_decoder(read_own_tokenizer(config.start_from), shape)
    if config.train == "decoder":
        network.freeze_encoder()
    return network


def _finish(
    begun: StageDirectory, config: TrainTokenizerConfig, trainee: TokenizerTrainee, images: TrainingImages
) -> None:
    """Write the tokenizer, its last pictures and the manifest."""
    network = trainee.trained.cpu()
    save_tokenizer(network, join(config.output, TOKENIZER))
    tokenizer, measured = trainee.frozen(), measured_pictures(images.held_out, config)
    drawn = draw_reconstructions(tokenizer, measured[:DRAWN_PICTURES])
    publish_bytes(join(config.output, RECONSTRUCTIONS), to_png(drawn))
    details: dict[str, Any] = measure_tokenizer(tokenizer, measured)
    details |= {"fingerprint": tokenizer.fingerprint, "shape": asdict(network.shape)}
    details |= {"perceptual": bool(config.vgg16), "measured_pictures": len(measured)}
    details["measured_on"] = "held_out" if images.is_held_out else "training"
    steps = [drawn_name("reconstructions", step) for step in config.schedule.drawn_steps()]
    names = [TOKENIZER, RECONSTRUCTIONS, METRICS, *steps, *index_files(config)]
    counts = {"pictures": len(images.pictures)}
    if dropped := count_dropped(config):
        counts["dropped"], details["dropped"] = sum(dropped.values()), dropped
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        print_line(f"train tokenizer: images that could not be used: {reasons}; named in {config.output}")
    begun.finish([record_shard(config.output, name, 0) for name in names], counts, details)
