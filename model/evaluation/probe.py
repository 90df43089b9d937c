"""The job that probes a prior: how well a class is told, by a linear map, from what its blocks make of an image.

Enters a trained prior of one stream and token shards with classes; leaves the accuracy on test rows of the prior's best
block, of an untrained network's, and of pixels, each chosen on validation rows, and the validation curve over blocks.

Source: "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627v3, sections 4.2 and 5.3, and
before it "Generative Pretraining from Pixels", ICML 2020 (iGPT), which searches for the best block.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.evaluation.logistic_regression import Rows, choose_regression, standardise
from model.evaluation.measured import figure_lines, finish_measured
from model.evaluation.probe_config import ProbeConfig
from model.evaluation.probe_features import block_features, pixel_features, untrained
from model.evaluation.probe_figures import PIXELS, PRIOR, RANDOM, Fitted, probe_figures
from model.evaluation.probe_rows import TEST, TRAINING, VALIDATION, ProbeRows, read_probe_rows
from model.evaluation.share_interval import share_of_images
from model.priors.decoder_only import DecoderOnly
from model.priors.families import family_of
from model.priors.prior_file import LoadedPrior, load_prior
from model.tokenizers import Execution, ImageTokenizer, open_tokenizer, tokenizer_files
from model.training.ranks import choose_device
from parti_data.errors import ConfigError, ShardError, TokenizerError
from parti_data.manifest import Beginning, Manifest, begin
from parti_data.progress import show_progress
from parti_data.storage import digest_json, sha256_file
from parti_data.token_directory import TokenDirectory, open_token_directory

__all__ = ["ProbeConfig", "figure_lines", "probe"]


class _Inputs(NamedTuple):
    """What is read, opened, and the digest of each of it."""

    prior: DecoderOnly
    tokens: TokenDirectory
    others: dict[str, TokenDirectory]
    tokenizer: ImageTokenizer | None
    digests: dict[str, str]


def probe(config: ProbeConfig) -> Manifest:
    """Train and measure the probes; return the manifest, whose details have the figures."""
    config.refuse_no_training()
    device = choose_device(config.device)
    inputs = _open(config, device)
    begun = begin(config.output, Beginning(stage="evaluate", config=config.deciding(), inputs=inputs.digests))
    if isinstance(begun, Manifest):
        return begun
    rows = read_probe_rows(config, inputs.tokens, inputs.others)
    found = {
        PRIOR: _probe_blocks(config, rows, inputs.prior, device),
        RANDOM: _probe_blocks(config, rows, untrained(inputs.prior, config.seed), device),
    }
    if inputs.tokenizer:
        found[PIXELS] = [_probe_pixels(config, rows, inputs.tokenizer, device)]
    return finish_measured(begun, [probe_figures(rows, found, config.block)])


def _open(config: ProbeConfig, device: torch.device) -> _Inputs:
    """Return the inputs; raises the errors of those that do not fit, before anything is begun."""
    loaded = load_prior(config.prior)
    prior = _one_stream(config, loaded)
    tokens = _open_tokens(config, config.tokens, loaded)
    others = {name: _open_tokens(config, path, loaded) for name, path in config.directories.items()}
    digests = {"prior": sha256_file(config.prior), "tokens": tokens.digest}
    digests |= {name: directory.digest for name, directory in others.items()}
    tokenizer = None
    if config.image_tokenizer:
        where = Execution(device="cuda" if device.type == "cuda" else "cpu")
        tokenizer = open_tokenizer(config.image_tokenizer, config.tokenizer, where)
        _refuse_other_tokenizer(config, tokenizer, loaded)
        files = tokenizer_files(config.image_tokenizer, config.tokenizer)
        digests["image_tokenizer_files"] = digest_json([sha256_file(path) for path in files])
    return _Inputs(prior, tokens, others, tokenizer, digests)


def _one_stream(config: ProbeConfig, loaded: LoadedPrior) -> DecoderOnly:
    """Return the prior; raises ConfigError where it has no features, or not the block that is asked for."""
    prior = loaded.model
    if not isinstance(prior, DecoderOnly):
        raise ConfigError(
            f"{config.prior}: expected a prior of one stream, such as vim, found {family_of(prior)}, whose decoder "
            "reads the caption in every block; train one of another family"
        )
    if config.block != "best" and config.block > len(prior.decoder):
        raise ConfigError(
            f"block: expected 0 to {len(prior.decoder)}, the blocks of {config.prior}, or best, found {config.block}; "
            "change it"
        )
    return prior


def _open_tokens(config: ProbeConfig, path: str, loaded: LoadedPrior) -> TokenDirectory:
    tokens = open_token_directory(path)
    if tokens.metadata.image_tokenizer != loaded.image_tokenizer:
        raise ShardError(
            f"{path}: expected tokens of the image tokenizer {loaded.image_tokenizer[:12]} that {config.prior} was "
            f"trained with, found {tokens.metadata.image_tokenizer[:12]}; tokenize the images with it"
        )
    if (found := tokens.metadata.num_tokens) != (wanted := loaded.model.shape.num_tokens):
        raise ShardError(
            f"{path}: expected {wanted} tokens an image, as {config.prior} has them, found {found}; tokenize the "
            "images at its size"
        )
    return tokens


def _refuse_other_tokenizer(config: ProbeConfig, tokenizer: ImageTokenizer, loaded: LoadedPrior) -> None:
    tokenizer.refuse_without_decoder()
    if tokenizer.fingerprint != loaded.image_tokenizer:
        raise TokenizerError(
            f"{config.image_tokenizer}: expected the image tokenizer {loaded.image_tokenizer[:12]} that {config.prior} "
            f"was trained with, found {tokenizer.fingerprint[:12]}; give the one that tokenized its shards"
        )


def _probe_blocks(config: ProbeConfig, rows: ProbeRows, prior: DecoderOnly, device: torch.device) -> list[Fitted]:
    parts = {name: part.image_tokens for name, part in rows.parts.items()}
    fitted = []
    with show_progress("probe", len(prior.decoder) + 1) as bar:
        for block, features in enumerate(block_features(prior, parts, config.batch_size, device)):
            fitted.append(_fit(config, rows, features, device)._replace(block=block))
            bar.update(block + 1, "blocks")
    prior.cpu()
    return fitted


def _probe_pixels(config: ProbeConfig, rows: ProbeRows, tokenizer: ImageTokenizer, device: torch.device) -> Fitted:
    features = {
        name: pixel_features(tokenizer, part.image_tokens, config.side_px, config.batch_size)
        for name, part in rows.parts.items()
    }
    return _fit(config, rows, features, device)


def _fit(config: ProbeConfig, rows: ProbeRows, features: dict[str, Tensor], device: torch.device) -> Fitted:
    """Return the probe of features (N, D) of each part, which are standardised in place."""
    standardise(features[TRAINING], features[VALIDATION], features[TEST])
    parts = {
        name: Rows(values.to(device), torch.from_numpy(rows.numbers(name)).to(device))
        for name, values in features.items()
    }
    regression, validation = choose_regression(parts[TRAINING], parts[VALIDATION], len(rows.classes), config.penalties)
    is_right = regression.is_right(*parts[TEST]).cpu().numpy()
    return Fitted(None, regression.penalty, validation, share_of_images(rows.parts[TEST].keys, is_right))
