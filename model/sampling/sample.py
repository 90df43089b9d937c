"""The job that samples images for prompts and writes them with everything that made them."""

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt

from model.priors.prior_file import LoadedPrior, load_prior
from model.sampling.decoding import DecodingExecution, prepare
from model.sampling.generate import Sampling, generate, uniform_numbers
from model.sampling.prompts import Prompt, encode_prompts, read_prompts
from model.sampling.sample_files import (
    GRID,
    TABLE,
    Place,
    is_drawn,
    join_parts,
    write_batch,
    write_grid,
    write_larger,
)
from model.tokenizers import Execution, ImageTokenizer, Reading, open_tokenizer, tokenizer_files
from model.upsamplers import Upsampler, load_upsampler
from parti_data.config import StageConfig
from parti_data.errors import TokenizerError
from parti_data.manifest import Beginning, Manifest, begin, record_shard
from parti_data.progress import show_progress
from parti_data.storage import canonical_json, digest_json, sha256_file
from parti_data.text import TextTokenizer


class SampleConfig(StageConfig):
    """What `parti sample` is told."""

    prior: str
    """The file that train prior wrote."""
    image_tokenizer: str
    tokenizer: Reading = Field(default_factory=Reading)
    """How a published image tokenizer is read, as tokenize was told."""
    text_tokenizer: str
    upsampler: str = ""
    """The file that train upsampler wrote: each sample is also written larger; empty: it is not."""
    prompts: list[str] = Field(default_factory=list)
    prompts_file: str = ""
    """A .tsv with a column Prompt and perhaps Category and Challenge, as PartiPrompts.tsv; or a prompt a line."""
    samples_per_prompt: PositiveInt = 4
    sampling: Sampling = Field(default_factory=Sampling)
    execution: DecodingExecution = Field(default_factory=DecodingExecution)
    batch_size: PositiveInt = 64
    seed: int = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset(
        {"prior", "image_tokenizer", "text_tokenizer", "upsampler", "prompts_file"}
    )


def sample(config: SampleConfig) -> Manifest:
    """Sample and write PNGs, a grid and a table of tokens, a batch after the other; return the manifest."""
    prompts = read_prompts(config.prompts, config.prompts_file)
    prior, tokenizer, text_tokenizer = _open(config)
    upsampler = _open_upsampler(config, tokenizer)
    inputs = {
        "prior": sha256_file(config.prior),
        "image_tokenizer": tokenizer.fingerprint,
        "image_tokenizer_files": _digest_files(config),
        "text_tokenizer": text_tokenizer.fingerprint,
        "prompts": digest_json(prompts),
    }
    if upsampler:
        inputs["upsampler"] = sha256_file(config.upsampler)
    begun = begin(config.output, Beginning(stage="sample", config=config.deciding(), inputs=inputs))
    if isinstance(begun, Manifest):
        return begun
    places = [Place(number, copy) for number in range(len(prompts)) for copy in range(config.samples_per_prompt)]
    batches = [places[start : start + config.batch_size] for start in range(0, len(places), config.batch_size)]
    drawn = 0
    with show_progress("sample", len(places)) as bar:
        for number, batch in enumerate(batches):
            if not is_drawn(config.output, number):
                asked = [prompts[place.prompt] for place in batch]
                tokens = _draw(config, prior, text_tokenizer, asked, batch)
                pictures = tokenizer.decode(tokens).numpy()
                if upsampler:
                    write_larger(config.output, batch, upsampler.enlarge(pictures))
                write_batch(config.output, number, asked, batch, tokens, pictures)
            drawn += len(batch)
            bar.update(drawn, "images")
    join_parts(config.output, len(batches), canonical_json(begun.beginning.model_dump(mode="json")))
    write_grid(config.output, places)
    pictures = [place.picture for place in places] + [place.larger for place in places if upsampler]
    return begun.finish(
        [record_shard(config.output, name, 0) for name in [*pictures, TABLE, GRID]],
        {"prompts": len(prompts), "images": len(places)},
        {"sampling": config.sampling.model_dump(mode="json")},
    )


def _open(config: SampleConfig) -> tuple[LoadedPrior, ImageTokenizer, TextTokenizer]:
    """Return prior and tokenizers; raises TokenizerError where they do not belong together."""
    where = Execution(device=config.execution.device)
    prior, tokenizer = load_prior(config.prior), open_tokenizer(config.image_tokenizer, config.tokenizer, where)
    prepare(prior.model, config.execution)
    tokenizer.refuse_without_decoder()
    text_tokenizer = TextTokenizer(config.text_tokenizer)
    for kind, path, wanted, found in (
        ("image tokenizer", config.image_tokenizer, prior.image_tokenizer, tokenizer.fingerprint),
        ("text tokenizer", config.text_tokenizer, prior.text_tokenizer, text_tokenizer.fingerprint),
    ):
        if wanted != found:
            raise TokenizerError(
                f"{path}: expected the {kind} {wanted[:12]} that {config.prior} was trained with, found {found[:12]}; "
                "give the one that tokenized its shards"
            )
    return prior, tokenizer, text_tokenizer


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


def _draw(
    config: SampleConfig,
    prior: LoadedPrior,
    text_tokenizer: TextTokenizer,
    prompts: list[Prompt],
    places: list[Place],
) -> torch.Tensor:
    text_ids = encode_prompts(prompts, text_tokenizer, prior.model.shape.max_text_length)
    uniform = uniform_numbers([(config.seed, *place) for place in places], prior.model.shape.num_tokens)
    return generate(prior.model, text_ids, uniform, config.sampling)
