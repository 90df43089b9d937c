"""The job that finds iGPT's colours in images: a sample of their pixels, clustered by k-means.

It writes `kmeans_centers.npy`, float32 (V, 3) in [-1, 1], as openai/image-gpt publishes its own: the kind `igpt` of an
image tokenizer. Source: iGPT, "Generative Pretraining from Pixels", Chen et al. 2020, section 3.2.
"""

import io
import json
from contextlib import closing
from typing import Any

import numpy as np

from model.tokenizers import ImageTokenizer, Reading, open_tokenizer
from model.training.checkpoint import METRICS
from model.training.colour_clusters import (
    Clusters,
    Colours,
    choose_centres,
    count_colours,
    most_used_first,
    move_centres,
)
from model.training.image_job import finish_job
from model.training.palette_config import TrainPaletteConfig
from model.training.ranks import Ranks
from model.training.reconstructions import RECONSTRUCTIONS, draw_reconstructions, measure_tokenizer, measured_pictures
from model.training.tokenizer_images import TrainingImages, input_digests, open_images, refuse_unfit_directories
from parti_data.errors import ConfigError
from parti_data.image_dataset import ImageDataset
from parti_data.images import to_png
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, read_manifest
from parti_data.progress import show_progress
from parti_data.storage import join, publish_bytes

__all__ = ["TrainPaletteConfig", "train_palette"]

PALETTE = "kmeans_centers.npy"
PICTURE = "palette.png"
_PIXEL_STREAM = 5
_COLUMNS, _SQUARE_PX = 32, 16


def train_palette(config: TrainPaletteConfig) -> Manifest:
    """Find, measure and write the colours; return the manifest."""
    refuse_unfit_directories(config)
    beginning = Beginning(stage="train_palette", config=config.deciding(), inputs=input_digests(config))
    begun = begin(config.output, beginning)
    if isinstance(begun, StageDirectory):
        images = open_images(config, config.image_side, Ranks())
        with closing(images.pictures):
            colours = count_colours(sample_pixels(images.pictures, config))
        _refuse_few(colours, config.codebook_size)
        clusters, lines = cluster(colours, config)
        publish_bytes(join(config.output, METRICS), "".join(f"{json.dumps(line)}\n" for line in lines).encode())
        _finish(begun, config, images, clusters)
    return read_manifest(config.output)


def sample_pixels(pictures: ImageDataset, config: TrainPaletteConfig) -> np.ndarray:
    """Return pixels uint8 (N, 3) drawn from pictures in random order: a function of the config and the pictures."""
    each = min(max(config.pixels_per_picture, -(-config.num_pixels // len(pictures))), config.image_side**2)
    count = min(len(pictures), -(-config.num_pixels // each))
    sampled = []
    with show_progress("train palette: read", count) as bar:
        for step, first in enumerate(range(0, count, config.batch_size)):
            batch = pictures.batch(step)[: count - first]
            sampled.append(_draw_pixels(batch, each, np.random.default_rng([config.seed, step, _PIXEL_STREAM])))
            bar.update(first + len(batch), "images")
    return np.concatenate(sampled)[: config.num_pixels]


def _draw_pixels(pictures: np.ndarray, each: int, generator: np.random.Generator) -> np.ndarray:
    """Return so many pixels of each picture, uint8 (N, 3)."""
    pixels = pictures.reshape(len(pictures), -1, 3)
    places = generator.random(pixels.shape[:2]).argsort(axis=1, kind="stable")[:, :each]
    return np.take_along_axis(pixels, places[:, :, None], axis=1).reshape(-1, 3)


def _refuse_few(colours: Colours, codebook_size: int) -> None:
    if len(colours.values) < codebook_size:
        raise ConfigError(
            f"codebook_size: expected at most {len(colours.values)}, the distinct colours of the "
            f"{colours.counts.sum()} pixels drawn, found {codebook_size}; lower it in a new output, or draw more by "
            "num_pixels"
        )


def cluster(colours: Colours, config: TrainPaletteConfig) -> tuple[Clusters, list[dict[str, float]]]:
    """Return the clusters, the most used first, and a line of metrics for each iteration."""
    centres = choose_centres(colours, config.codebook_size, config.seed)
    lines: list[dict[str, float]] = []
    with show_progress("train palette: cluster", config.num_iterations) as bar:
        for iteration in range(1, config.num_iterations + 1):
            before = lines[-1]["mean_squared_distance"] if lines else np.inf
            centres, distance = move_centres(colours, centres)
            lines.append({"step": iteration, "mean_squared_distance": distance})
            bar.update(iteration, f"mean squared distance {distance:.3g}")
            if before - distance <= config.least_gain * distance:
                break
    return most_used_first(colours, centres), lines


def write_palette(centres: np.ndarray, config: TrainPaletteConfig) -> ImageTokenizer:
    """Write the file, and return the tokenizer that tokenize will read from it."""
    buffer = io.BytesIO()
    np.save(buffer, centres.astype("<f4"))
    path = join(config.output, PALETTE)
    publish_bytes(path, buffer.getvalue())
    return open_tokenizer(path, Reading(kind="igpt", image_side=config.image_side))


def _finish(begun: StageDirectory, config: TrainPaletteConfig, images: TrainingImages, clusters: Clusters) -> None:
    """Write the colours, the pictures and the manifest."""
    tokenizer = write_palette(clusters.centres, config)
    measured = measured_pictures(images.held_out, config)
    publish_bytes(join(config.output, RECONSTRUCTIONS), to_png(draw_reconstructions(tokenizer, measured)))
    publish_bytes(join(config.output, PICTURE), to_png(draw_palette(tokenizer)))
    details: dict[str, Any] = measure_tokenizer(tokenizer, measured)
    shape = {"codebook_size": config.codebook_size, "image_side": config.image_side, "patch_side": 1}
    details |= {"fingerprint": tokenizer.fingerprint, "shape": shape}
    details["mean_squared_distance"] = clusters.mean_squared_distance
    finish_job(begun, config, images, [PALETTE, RECONSTRUCTIONS, PICTURE, METRICS], details)


def draw_palette(tokenizer: ImageTokenizer) -> np.ndarray:
    """Return a picture with a square of each colour, the first one upper left; what is left of the last row is grey."""
    colours = tokenizer.decode(np.arange(tokenizer.spec.codebook_size)[:, None])[:, 0, 0].numpy()
    num_rows = -(-len(colours) // _COLUMNS)
    squares = np.full((num_rows * _COLUMNS, 3), 128, np.uint8)
    squares[: len(colours)] = colours
    return squares.reshape(num_rows, _COLUMNS, 3).repeat(_SQUARE_PX, 0).repeat(_SQUARE_PX, 1)
