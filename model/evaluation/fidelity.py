"""Samples against real images: FID, Inception score, precision and recall, by the features of Inception.

The features are written, of both, so that a run that was stopped goes on behind them, and another model's samples can
be compared with the same real images without reading those again.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from model.checkpoints import open_checkpoint
from model.evaluation.evaluate_config import FidelitySettings
from model.evaluation.frechet_distance import fit_gaussian, frechet_distance
from model.evaluation.inception import WIDTH, Inception
from model.evaluation.inception_score import NUM_SPLITS, inception_score
from model.evaluation.measured import Measured
from model.evaluation.precision_recall import NEIGHBOURS, precision_recall
from model.evaluation.real_images import INDEX, choose, choose_real, open_real, real_pictures
from model.evaluation.sample_directory import SampleDirectory
from parti_data.errors import ConfigError, ShardError
from parti_data.image_dataset import Images
from parti_data.ledger import LedgerRow
from parti_data.manifest import read_manifest
from parti_data.progress import show_progress
from parti_data.storage import is_file, join, publish

SIDE = "side_px"
REAL, GENERATED = "real_features.npy", "sample_features.npy"
STAGE = "evaluate"
_LEAST = {"fid": 2, "inception_score": NUM_SPLITS, "precision_recall": NEIGHBOURS + 1}
"""Images below which there is no such figure."""
_SAME = ("num_images", "preprocessing", "seed", "limits")
"""Settings that decide which features real images have."""


def measure_fidelity(
    settings: FidelitySettings, network: Inception, directory: SampleDirectory, output: str
) -> Measured:
    """Return the figures that the settings ask for; raises ConfigError where there are too few images, before any
    goes through the network.
    """
    numbers = choose(len(directory.samples), settings.num_images, settings.seed, f"samples in {directory.path}")
    chosen = _choose_real(settings, output) if settings.compares else None
    pictures = (directory.pixels(directory.samples[number]) for number in numbers)
    generated = _features(join(output, GENERATED), network, pictures, len(numbers), settings.batch_size)
    figures, counts, files = {}, {"samples": len(generated)}, [GENERATED]
    if "inception_score" in settings.figures:
        score = inception_score(_logits(network, generated))
        figures |= {"inception_score": score.mean, "inception_score_std": score.std}
    if settings.compares:
        real = _real_features(settings, chosen, network, output, directory.side_px)
        figures |= _compare(settings, real, generated)
        counts["real_images"] = len(real)
        files += [name for name in (REAL, INDEX) if is_file(join(output, name))]
    return Measured(figures, counts, files=tuple(files), details={SIDE: directory.side_px})


def _compare(settings: FidelitySettings, real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    figures = {}
    if "fid" in settings.figures:
        figures["fid"] = frechet_distance(fit_gaussian(real), fit_gaussian(generated))
    if "precision_recall" in settings.figures:
        figures |= precision_recall(real, generated)._asdict()
    return figures


class _Chosen(NamedTuple):
    """Real images, and the rows of those that are measured."""

    images: Images
    rows: list[LedgerRow]


def _choose_real(settings: FidelitySettings, output: str) -> _Chosen | None:
    """Return the real images that are measured, None where an evaluation has their features."""
    if isinstance(settings.real, str) and read_manifest(settings.real).stage == STAGE:
        return None
    images = open_real(settings, output)
    rows = choose_real(images, settings)
    _refuse_fewer(settings, len(rows), "real images")
    return _Chosen(images, rows)


def _real_features(
    settings: FidelitySettings, chosen: _Chosen | None, network: Inception, output: str, side: int
) -> np.ndarray:
    if chosen is None:
        return _taken(str(settings.real), join(output, REAL))
    pictures = real_pictures(chosen.images, chosen.rows, settings, side)
    return _features(join(output, REAL), network, pictures, len(chosen.rows), settings.batch_size)


def refuse_too_few(settings: FidelitySettings, directory: SampleDirectory) -> None:
    """Raise ConfigError where samples, or the real images of a finished directory, are too few for a figure."""
    samples = choose(len(directory.samples), settings.num_images, settings.seed, f"samples in {directory.path}")
    _refuse_fewer(settings, len(samples), "samples")
    if settings.compares and isinstance(settings.real, str):
        manifest = read_manifest(settings.real)
        is_measured = manifest.stage == STAGE
        available = manifest.counts.get("real_images", 0) if is_measured else sum(manifest.details["kept"])
        chosen = choose(available, settings.num_images, settings.seed, f"real images in {settings.real}")
        _refuse_fewer(settings, len(chosen), "real images")


def _refuse_fewer(settings: FidelitySettings, count: int, what: str) -> None:
    for figure in settings.figures:
        if count < _LEAST[figure] and (what == "samples" or figure != "inception_score"):
            raise ConfigError(
                f"fidelity.figures: expected at least {_LEAST[figure]} {what} for {figure}, found {count}; give more "
                "or leave it out"
            )


def _taken(other: str, path: str) -> np.ndarray:
    features = _read(join(other, REAL))
    _write(path, features)
    return features


def refuse_other_features(settings: FidelitySettings, inception_digest: str, side_px: int) -> None:
    """Raise ShardError where `real` is an evaluation whose real images were not measured with these settings."""
    if not isinstance(settings.real, str) or not settings.real:
        return
    manifest = read_manifest(settings.real, ("filter", "shard", STAGE))
    if manifest.stage != STAGE:
        return
    theirs, mine = manifest.config.get("fidelity") or {}, settings.model_dump(mode="json")
    values = {name: (theirs.get(name), mine[name]) for name in _SAME}
    values["inception"] = (manifest.inputs.get("inception", "")[:12], inception_digest[:12])
    values[SIDE] = (manifest.details.get(SIDE), side_px)
    for name, (found, wanted) in values.items():
        if found != wanted:
            raise ShardError(
                f"{settings.real}: expected an evaluation with fidelity.{name} {wanted}, found {found}; name the real "
                "images themselves"
            )


@torch.inference_mode()
def _features(path: str, network: Inception, pictures: Iterator[np.ndarray], count: int, batch_size: int) -> np.ndarray:
    """Return the features float32 (N, 2048) of so many pictures; those in a file at `path` unless there is none."""
    if is_file(path):
        return _read(path)
    device = network.fc.weight.device
    features = np.empty((count, WIDTH), np.float32)
    what = f"features of {path.rpartition('/')[2].partition('_')[0]} images"
    # cudnn's default on a GPU is TF32; an evaluation may have its features from a CPU
    with show_progress(what, count) as bar, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for start in range(0, count, batch_size):
            batch = torch.from_numpy(np.stack(list(islice(pictures, batch_size)))).to(device)
            features[start : start + len(batch)] = network(batch).cpu().numpy()
            bar.update(start + len(batch), "images")
    _write(path, features)
    return features


@torch.inference_mode()
def _logits(network: Inception, features: np.ndarray) -> np.ndarray:
    return network.logits(torch.from_numpy(features).to(network.fc.weight.device)).cpu().numpy()


def _write(path: str, features: np.ndarray) -> None:
    with publish(path) as file:
        np.save(file, features)


def _read(path: str) -> np.ndarray:
    """Return features that an evaluation wrote; raises ShardError for an array of another kind."""
    features = open_checkpoint(path).tensors.get("array", torch.empty(0)).numpy()
    if features.ndim != 2 or features.shape[1] != WIDTH or features.dtype != np.float32:
        raise ShardError(
            f"{path}: expected features float32 (N, {WIDTH}), found {features.dtype} {features.shape}; run evaluate "
            "into a new directory"
        )
    return features
