"""What the jobs share that train on images: what they refuse, begin with, and tell when they are done."""

from typing import Any

from model.training.discriminator import refuse_side
from model.training.image_config import ImagesConfig, TrainOnImagesConfig, TrainWithCriticsConfig
from model.training.perceptual import PerceptualDistance, load_perceptual, refuse_small
from model.training.ranks import Ranks
from model.training.tokenizer_images import (
    TrainingImages,
    count_dropped,
    index_files,
    input_digests,
    refuse_unfit_directories,
)
from parti_data.errors import ConfigError
from parti_data.image_dataset import Reading
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, record_shard
from parti_data.progress import print_line
from parti_data.storage import sha256_file

_NO_VGG16 = (
    "{title}: no weights of VGG16 (vgg16=PATH), so it goes on without the perceptual term; "
    "loss_weights.perceptual=0 says that this is meant"
)


def refuse_unfit(config: TrainOnImagesConfig, ranks: Ranks) -> None:
    """Raise ConfigError, before anything is begun, for what a run would stumble over and another config mends."""
    slice_size = Reading(ranks.rank, ranks.world_size).share(config.batch_size)
    if slice_size % config.batch_parts:
        raise ConfigError(
            f"batch_parts: expected a divisor of the {slice_size} images a rank, found {config.batch_parts}; change "
            "one of them"
        )
    refuse_unfit_directories(config)


def refuse_unfit_critics(config: TrainWithCriticsConfig, image_side: int) -> None:
    """Raise ConfigError where images of this side are nothing for a discriminator or a perceptual term, or where that
    has linear weights alone.
    """
    if config.lpips and not config.vgg16:
        raise ConfigError(
            "lpips: expected the weights of VGG16 whose channels it weighs, found no vgg16; name their file, or leave "
            "lpips out"
        )
    if config.adversarial:
        refuse_side(image_side)
    if config.vgg16:
        refuse_small(image_side)


def open_perceptual(config: TrainWithCriticsConfig) -> PerceptualDistance | None:
    """Return the distance whose weights the config names; raises CheckpointError."""
    return load_perceptual(config.vgg16, config.lpips) if config.vgg16 else None


def begin_job(stage: str, config: TrainOnImagesConfig, inputs: dict[str, str]) -> StageDirectory | Manifest:
    """Return the directory to fill, or its manifest where it is finished; `inputs` are digests of what only this job
    takes.
    """
    digests = input_digests(config) | inputs
    return begin(config.output, Beginning(stage=stage, config=config.deciding(), inputs=digests))


def critics_digests(config: TrainWithCriticsConfig) -> dict[str, str]:
    """Return the digests of the perceptual term's files."""
    files = {"vgg16": config.vgg16, "lpips": config.lpips}
    return {name: sha256_file(path) for name, path in files.items() if path}


def tell_missing_perceptual(config: TrainWithCriticsConfig, weight: float, title: str) -> None:
    """Say on the terminal that a term with a weight has no weights of VGG16."""
    if weight and not config.vgg16:
        print_line(_NO_VGG16.format(title=title))


def finish_job(
    begun: StageDirectory,
    config: ImagesConfig,
    images: TrainingImages,
    names: list[str],
    details: dict[str, Any],
) -> Manifest:
    """Write the manifest of files with these names and of the index of the images; say what could not be used."""
    details |= {
        "measured_pictures": min(config.measured_pictures, len(images.held_out)),
        "measured_on": "held_out" if images.is_held_out else "training",
    }
    counts = {"pictures": len(images.pictures)}
    if dropped := count_dropped(config):
        counts["dropped"], details["dropped"] = sum(dropped.values()), dropped
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        title = begun.beginning.stage.replace("_", " ")
        print_line(f"{title}: images that could not be used: {reasons}; named in {config.output}")
    shards = [record_shard(config.output, name, 0) for name in [*names, *index_files(config)]]
    return begun.finish(shards, counts, details)
