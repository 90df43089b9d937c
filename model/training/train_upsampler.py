"""The job that trains an upsampler on the reconstructions of an image tokenizer, in one process or in several."""

from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from model.shapes import make_shape
from model.tokenizers import Execution, open_tokenizer, tokenizer_files
from model.training.checkpoint import METRICS
from model.training.enlargements import Redrawing
from model.training.image_job import (
    begin_job,
    critics_digests,
    finish_job,
    open_perceptual,
    refuse_unfit,
    refuse_unfit_critics,
    tell_missing_perceptual,
)
from model.training.joint_beginning import begin_on_ranks
from model.training.loop import drawn_name, train
from model.training.ranks import Ranks, join_ranks
from model.training.tokenizer_images import TrainingImages, open_images
from model.training.upsampler_config import TrainUpsamplerConfig
from model.training.upsampler_trainee import ENLARGEMENTS, UpsamplerTrainee
from model.upsamplers import WDSR, WDSRShape, save_upsampler
from parti_data.manifest import Manifest, StageDirectory, read_manifest
from parti_data.storage import digest_json, join, sha256_file

__all__ = ["TrainUpsamplerConfig", "train_upsampler"]

UPSAMPLER = "upsampler.safetensors"


def train_upsampler(config: TrainUpsamplerConfig) -> Manifest:
    """Train, measure and write an upsampler; return the manifest, on every rank."""
    with join_ranks(config.running.device) as ranks:
        shape = make_shape(WDSRShape, dict(config.architecture))
        redrawing = _open(config, shape, ranks)
        large_side = redrawing.tokenizer.spec.image_side * shape.scale
        refuse_unfit(config, ranks)
        refuse_unfit_critics(config, large_side)
        perceptual = open_perceptual(config)
        torch.manual_seed(config.seed)
        network = WDSR(shape)
        begun = begin_on_ranks(ranks, config.output, lambda: _begin(config, redrawing))
        if isinstance(begun, Manifest):
            return begun
        if ranks.is_first:
            tell_missing_perceptual(config, config.loss_weights.perceptual, "train upsampler")
        images = open_images(config, large_side, ranks)
        trainee = UpsamplerTrainee(config, network, redrawing, images, ranks, perceptual)
        with closing(images.pictures):
            train(trainee, config.schedule, config.output, "train upsampler", config.running, ranks)
        if isinstance(begun, StageDirectory):
            _finish(begun, config, trainee, images)
        ranks.from_first(None)  # wait for the manifest
        return read_manifest(config.output)


def _open(config: TrainUpsamplerConfig, shape: WDSRShape, ranks: Ranks) -> Redrawing:
    """Return the way to the upsampler; raises TokenizerError where the tokenizer only encodes."""
    execution = Execution.model_validate({"device": ranks.device.type})
    tokenizer = open_tokenizer(config.image_tokenizer, config.tokenizer, execution)
    tokenizer.refuse_without_decoder()
    return Redrawing(tokenizer, shape.scale, config.shrinking)


def _begin(config: TrainUpsamplerConfig, redrawing: Redrawing) -> StageDirectory | Manifest:
    """Begin with the tokenizer's fingerprint, and the digest of its files: a decoder is in no fingerprint."""
    files = [sha256_file(path) for path in tokenizer_files(config.image_tokenizer, config.tokenizer)]
    inputs = {"image_tokenizer": redrawing.tokenizer.fingerprint, "image_tokenizer_files": digest_json(files)}
    return begin_job("train_upsampler", config, inputs | critics_digests(config))


def _finish(
    begun: StageDirectory, config: TrainUpsamplerConfig, trainee: UpsamplerTrainee, images: TrainingImages
) -> None:
    """Write the upsampler and the manifest; its last pictures lie there."""
    details: dict[str, Any] = {**trainee.measure(), "perceptual": bool(config.vgg16)}
    network, fingerprint = trainee.trained.cpu(), begun.beginning.inputs["image_tokenizer"]
    save_upsampler(network, fingerprint, join(config.output, UPSAMPLER))
    details |= {"shape": asdict(network.shape), "image_tokenizer": fingerprint, "perceptual": bool(config.vgg16)}
    details["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    steps = [drawn_name(ENLARGEMENTS, step) for step in config.schedule.drawn_steps()]
    finish_job(begun, config, images, [UPSAMPLER, METRICS, f"{ENLARGEMENTS}.png", *steps], details)
