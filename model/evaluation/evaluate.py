"""The job that measures a prior and its samples: whatever its config names, into one directory."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from model.evaluation.best_of import refuse_unranked
from model.evaluation.clip import Clip, load_clip
from model.evaluation.completions import Original, judge_completions, read_originals
from model.evaluation.evaluate_config import EvaluateConfig
from model.evaluation.fidelity import measure_fidelity, refuse_other_features, refuse_too_few
from model.evaluation.held_out_loss import measure_held_out_loss, open_held_out
from model.evaluation.inception import Inception, load_inception
from model.evaluation.measured import Measured, figure_lines, finish_measured
from model.evaluation.prompt_fit import measure_prompt_fit
from model.evaluation.prompt_page import write_prompt_page
from model.evaluation.real_images import real_digest
from model.evaluation.sample_directory import SampleDirectory
from model.evaluation.scenes import judge_scenes
from model.evaluation.setting_curve import SettingCurve
from model.priors.prior_file import LoadedPrior
from model.training.ranks import choose_device
from parti_data.errors import ConfigError
from parti_data.manifest import Beginning, Manifest, begin, manifest_digest
from parti_data.storage import is_file, sha256_file
from parti_data.token_dataset import TokenDataset

__all__ = ["EvaluateConfig", "evaluate", "figure_lines"]


class _Inputs(NamedTuple):
    """What is measured, opened, and the digest of each of it."""

    samples: SampleDirectory | None
    held_out: tuple[LoadedPrior, TokenDataset] | None
    inception: Inception | None
    clip: Clip | None
    models: dict[str, SampleDirectory]
    curve: SettingCurve | None
    originals: dict[str, Original] | None
    digests: dict[str, str]


def evaluate(config: EvaluateConfig) -> Manifest:
    """Measure what the config names; return the manifest, whose details have the figures."""
    config.refuse_nothing()
    device = choose_device(config.device)
    inputs = _open(config, device)
    begun = begin(config.output, Beginning(stage="evaluate", config=config.deciding(), inputs=inputs.digests))
    if isinstance(begun, Manifest):
        return begun
    return finish_measured(begun, _measure(config, inputs, device))


def _open(config: EvaluateConfig, device: torch.device) -> _Inputs:
    """Return the inputs; raises the errors of those that do not fit, before anything is begun."""
    samples = SampleDirectory(config.samples) if config.samples else None
    digests = {"samples": samples.digest} if samples else {}
    held_out, inception, clip, models, curve, originals = None, None, None, {}, None, None
    if samples and config.best_of:
        refuse_unranked(samples)
    if samples and config.completions:
        originals = read_originals(samples, config.completions.source)
        digests["completions"] = manifest_digest(config.completions.source)
    if config.held_out:
        held_out = open_held_out(config.held_out)
        digests |= {"prior": sha256_file(config.held_out.prior), "held_out": held_out[1].digest}
    if config.fidelity and samples:
        digests["inception"] = _file_digest("fidelity.inception", config.fidelity.inception)
        if config.fidelity.compares:
            refuse_other_features(config.fidelity, digests["inception"], samples.side_px)
            digests["real"] = real_digest(config.fidelity)
        refuse_too_few(config.fidelity, samples)
        inception = load_inception(config.fidelity.inception).to(device)
    if config.clip:
        digests["clip"] = _file_digest("clip.weights", config.clip.weights)
        clip = load_clip(config.clip.model, config.clip.weights, device)
    if config.page:
        models = {name: SampleDirectory(path) for name, path in config.page.models.items()}
        digests |= {f"page.{name}": directory.digest for name, directory in models.items()}
    if config.curve:
        curve = SettingCurve(config.curve.samples)
        digests |= {f"curve.{value}": one.digest for value, one in zip(curve.values, curve.directories, strict=True)}
    return _Inputs(samples, held_out, inception, clip, models, curve, originals, digests)


def _file_digest(key: str, path: str) -> str:
    if not is_file(path):
        raise ConfigError(f"{key}: expected a file of weights, found none at {path}; download it and name it")
    return sha256_file(path)


def _measure(config: EvaluateConfig, inputs: _Inputs, device: torch.device) -> Iterator[Measured]:
    if inputs.held_out:
        yield measure_held_out_loss(*inputs.held_out, device)
    if inputs.samples and config.scenes:
        yield judge_scenes(inputs.samples, config.best_of)
    if inputs.samples and inputs.originals:
        yield judge_completions(inputs.samples, inputs.originals)
    if inputs.curve:
        yield inputs.curve.measure()
    if inputs.samples and inputs.inception and config.fidelity:
        yield measure_fidelity(config.fidelity, inputs.inception, inputs.samples, config.output)
    if inputs.samples and inputs.clip and config.clip:
        yield measure_prompt_fit(inputs.clip, inputs.samples, config.clip.batch_size)
    if config.page:
        models = inputs.models or ({"": inputs.samples} if inputs.samples else {})
        yield write_prompt_page(config.page, models, config.output)
