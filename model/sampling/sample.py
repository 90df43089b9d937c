"""The job that samples images for prompts and writes them with everything that made them."""

from typing import NamedTuple

import torch

from model.priors.prior_file import LoadedPrior, load_prior
from model.sampling.completion import Given, list_pictures, pair_up, read_given
from model.sampling.decoding import prepare
from model.sampling.generate import generate, uniform_numbers
from model.sampling.prompts import Prompt, encode_prompts, read_prompts
from model.sampling.ranking import Ranker, keep_best, open_ranker, ranker_digest
from model.sampling.sample_config import SampleConfig
from model.sampling.sample_files import (
    GRID,
    TABLE,
    Drawn,
    Place,
    is_drawn,
    join_parts,
    kept_pictures,
    larger_name,
    write_grid,
    write_part,
    write_pictures,
)
from model.tokenizers import Execution, ImageTokenizer, open_tokenizer, tokenizer_files
from model.upsamplers import Upsampler, load_upsampler
from parti_data.errors import ConfigError, TokenizerError
from parti_data.manifest import Beginning, Manifest, begin, record_shard
from parti_data.progress import show_progress
from parti_data.storage import canonical_json, digest_json, sha256_file
from parti_data.text import TextTokenizer

__all__ = ["SampleConfig", "sample"]


class _Inputs(NamedTuple):
    """What images are drawn by and from, opened, and the digest of each of it."""

    prompts: list[Prompt]
    prior: LoadedPrior
    tokenizer: ImageTokenizer
    text_tokenizer: TextTokenizer | None
    given: Given | None
    ranker: Ranker | None
    upsampler: Upsampler | None
    digests: dict[str, str]


def sample(config: SampleConfig) -> Manifest:
    """Sample and write PNGs, a grid and a table of tokens, a part after the other; return the manifest."""
    config.refuse_unfit()
    inputs = _open(config)
    begun = begin(config.output, Beginning(stage="sample", config=config.deciding(), inputs=inputs.digests))
    if isinstance(begun, Manifest):
        return begun
    places = [Place(number, copy) for number in range(len(inputs.prompts)) for copy in range(config.samples_per_prompt)]
    parts = _split(config, places)
    num_drawn = 0
    with show_progress("sample", len(places)) as bar:
        for number, part in enumerate(parts):
            if not is_drawn(config.output, number):
                drawn = _draw_part(config, inputs, part)
                _write_kept(config, inputs, [one for one in drawn if one.is_kept])
                write_part(config.output, number, drawn)
            num_drawn += len(part)
            bar.update(num_drawn, "images")
    join_parts(config.output, len(parts), canonical_json(begun.beginning.model_dump(mode="json")))
    pictures = kept_pictures(config.output)
    write_grid(config.output, pictures)
    larger = [larger_name(picture) for picture in pictures if inputs.upsampler]
    num_prompts = 0 if inputs.prior.model.reads == "nothing" else len(inputs.prompts)
    counts = {"prompts": num_prompts, "images": len(pictures)}
    return begun.finish(
        [record_shard(config.output, name, 0) for name in [*pictures, *larger, TABLE, GRID]],
        counts | ({"drawn": len(places)} if config.ranking else {}),
        {"sampling": config.sampling.model_dump(mode="json")},
    )


def _open(config: SampleConfig) -> _Inputs:
    """Return the inputs; raises the errors of those that do not fit, before anything is begun."""
    prior, tokenizer, text_tokenizer = _open_prior(config)
    _refuse_unlearned(config, prior)
    prompts, pictures = read_prompts(config.prompts, config.prompts_file, prior.model.reads), None
    if prior.model.reads == "class":
        _condition(prior, prompts, None)  # which refuses what is no class
    if config.completion:
        pictures = list_pictures(config.completion)
        prompts, names = pair_up(prompts, pictures.names)
        pictures = pictures._replace(names=names)
    upsampler = _open_upsampler(config, tokenizer)
    digests = {
        "prior": sha256_file(config.prior),
        "image_tokenizer": tokenizer.fingerprint,
        "image_tokenizer_files": _digest_files(config),
        "prompts": digest_json(prompts),
    } | ({"text_tokenizer": text_tokenizer.fingerprint} if text_tokenizer else {})
    given, ranker = None, None
    if config.completion and pictures:
        given = read_given(config.completion, pictures, tokenizer, prior.model.shape.grid_side)
        digests["completion"] = digest_json(given.keys)
    if config.ranking:
        digests["ranker"] = ranker_digest(config.ranking)
        ranker = open_ranker(config.ranking, tokenizer, text_tokenizer, torch.device(config.execution.device))
    if upsampler:
        digests["upsampler"] = sha256_file(config.upsampler)
    return _Inputs(prompts, prior, tokenizer, text_tokenizer, given, ranker, upsampler, digests)


def _open_prior(config: SampleConfig) -> tuple[LoadedPrior, ImageTokenizer, TextTokenizer | None]:
    """Return prior and tokenizers, that of text only where it is read.

    Raises TokenizerError where they do not belong together, ConfigError where that of text is missing or the prior
    cannot draw.
    """
    where = Execution(device=config.execution.device)
    prior, tokenizer = load_prior(config.prior), open_tokenizer(config.image_tokenizer, config.tokenizer, where)
    prior.model.refuse_drawing()
    prepare(prior.model, config.execution)
    tokenizer.refuse_without_decoder()
    marks = [("image tokenizer", config.image_tokenizer, prior.image_tokenizer, tokenizer.fingerprint)]
    text_tokenizer = None
    if prior.model.reads == "text" or (config.ranking and config.ranking.model):
        if not config.text_tokenizer:
            raise ConfigError("text_tokenizer: expected the file that gave the text ids, found none; name it")
        text_tokenizer = TextTokenizer(config.text_tokenizer)
        marks.append(("text tokenizer", config.text_tokenizer, prior.text_tokenizer, text_tokenizer.fingerprint))
    for kind, path, wanted, found in marks:
        if wanted != found:
            raise TokenizerError(
                f"{path}: expected the {kind} {wanted[:12]} that {config.prior} was trained with, found {found[:12]}; "
                "give the one that tokenized its shards"
            )
    return prior, tokenizer, text_tokenizer


def _refuse_unlearned(config: SampleConfig, prior: LoadedPrior) -> None:
    """Raise ConfigError for guidance by what a prior never learned, or a ranking by prompts that it does not read."""
    if prior.model.reads == "nothing":
        if config.ranking:
            raise ConfigError("ranking: expected a prior that reads prompts, found one that reads none; leave it out")
    elif config.sampling.guidance != 1 and prior.told.get("text_drop") == 0:
        raise ConfigError(
            f"sampling.guidance: expected 1 for a prior that was trained with text_drop=0, found "
            f"{config.sampling.guidance}; change it, or train a prior with text_drop=0.1"
        )


def _digest_files(config: SampleConfig) -> str:
    """Return the digest of the image tokenizer's files: its decoder is in no fingerprint."""
    return digest_json([sha256_file(path) for path in tokenizer_files(config.image_tokenizer, config.tokenizer)])


def _open_upsampler(config: SampleConfig, tokenizer: ImageTokenizer) -> Upsampler | None:
    """Return the upsampler, if one is named; raises TokenizerError where it is that of another image tokenizer."""
    if not config.upsampler:
        return None
    upsampler = load_upsampler(config.upsampler)
    upsampler.refuse_pictures_of(tokenizer.fingerprint, config.upsampler)
    return upsampler


def _split(config: SampleConfig, places: list[Place]) -> list[list[Place]]:
    """Return the places in parts: batches, or where samples are ranked the whole prompts that a batch has room for."""
    size = config.batch_size
    if config.ranking:
        size = config.samples_per_prompt * max(1, size // config.samples_per_prompt)
    return [places[start : start + size] for start in range(0, len(places), size)]


def _draw_part(config: SampleConfig, inputs: _Inputs, part: list[Place]) -> list[Drawn]:
    """Return the samples of a part, each prompt's best first where they are ranked."""
    drawn: list[Drawn] = []
    for start in range(0, len(part), config.batch_size):
        drawn += _draw(config, inputs, part[start : start + config.batch_size])
    return keep_best(drawn, config.ranking.keep) if config.ranking else drawn


def _draw(config: SampleConfig, inputs: _Inputs, places: list[Place]) -> list[Drawn]:
    model, given = inputs.prior.model, inputs.given
    numbers = [place.prompt for place in places]
    prompts = [inputs.prompts[number] for number in numbers]
    condition = _condition(inputs.prior, prompts, inputs.text_tokenizer)
    uniform = uniform_numbers([(config.seed, *place) for place in places], model.shape.num_tokens)
    tokens = generate(model, condition, uniform, config.sampling, given.tokens[numbers] if given else None)
    scores = inputs.ranker.scores(prompts, tokens).tolist() if inputs.ranker else [None] * len(places)
    rows, keys = (given.rows, given.keys) if given else (0, [""] * len(inputs.prompts))
    return [
        Drawn(place, prompt, image_tokens, rows, keys[place.prompt], score)
        for place, prompt, image_tokens, score in zip(places, prompts, tokens, scores, strict=True)
    ]


def _condition(prior: LoadedPrior, prompts: list[Prompt], text_tokenizer: TextTokenizer | None) -> torch.Tensor:
    """Return what the prior reads of prompts, (B, T)."""
    longest = prior.model.shape.most_text_ids
    ids = encode_prompts(prompts, text_tokenizer, longest) if text_tokenizer and longest else None
    nothing = torch.zeros(len(prompts), 0, dtype=torch.long)
    return prior.model.condition([prompt.text for prompt in prompts], nothing if ids is None else ids)


def _write_kept(config: SampleConfig, inputs: _Inputs, kept: list[Drawn]) -> None:
    """Write the pictures of samples, and larger ones where there is an upsampler, a batch after the other."""
    for start in range(0, len(kept), config.batch_size):
        batch = kept[start : start + config.batch_size]
        names = [one.place.picture for one in batch]
        pictures = inputs.tokenizer.decode(torch.stack([one.image_tokens for one in batch])).numpy()
        if inputs.upsampler:
            larger = [larger_name(name) for name in names]
            write_pictures(config.output, larger, inputs.upsampler.enlarge(pictures))
        write_pictures(config.output, names, pictures)
