"""What a job leaves that has trained an image tokenizer, of whatever family."""

from dataclasses import asdict
from typing import Any

import torch

from model.tokenizers.own_file import OwnNetwork, save_tokenizer
from model.training.checkpoint import METRICS
from model.training.image_config import TrainOnImagesConfig
from model.training.image_job import finish_job
from model.training.loop import drawn_name
from model.training.reconstructions import (
    DRAWN,
    RECONSTRUCTIONS,
    draw_reconstructions,
    freeze,
    measure_tokenizer,
    measured_pictures,
)
from model.training.tokenizer_images import TrainingImages
from parti_data.images import to_png
from parti_data.manifest import StageDirectory
from parti_data.storage import join, publish_bytes

TOKENIZER = "tokenizer.safetensors"


def finish_tokenizer(
    begun: StageDirectory,
    config: TrainOnImagesConfig,
    network: OwnNetwork,
    images: TrainingImages,
    device: torch.device,
    details: dict[str, Any],
) -> None:
    """Write the tokenizer, its last pictures and the manifest."""
    tokenizer, measured = freeze(network, device), measured_pictures(images.held_out, config)
    save_tokenizer(network.cpu(), join(config.output, TOKENIZER))
    drawn = draw_reconstructions(tokenizer, measured)
    publish_bytes(join(config.output, RECONSTRUCTIONS), to_png(drawn))
    shape = asdict(network.shape) | {"patch_side": network.shape.patch_side}
    details |= {**measure_tokenizer(tokenizer, measured), "fingerprint": tokenizer.fingerprint, "shape": shape}
    steps = [drawn_name(DRAWN, step) for step in config.schedule.drawn_steps()]
    finish_job(begun, config, images, [TOKENIZER, RECONSTRUCTIONS, METRICS, *steps], details)
