"""The job that samples images for prompts and writes them with everything that made them."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, PositiveInt

from model.priors.prior_file import LoadedPrior, load_prior
from model.sampling.generate import Sampling, generate, uniform_numbers
from model.tokenizers import ImageTokenizer, Reading, open_tokenizer
from model.upsamplers import Upsampler, load_upsampler
from parti_data.config import StageConfig
from parti_data.errors import ConfigError, TokenizerError
from parti_data.images import to_png
from parti_data.manifest import Beginning, Manifest, begin, record_shard
from parti_data.progress import show_progress
from parti_data.storage import (
    canonical_json,
    digest_json,
    join,
    publish,
    publish_bytes,
    read_bytes,
    sha256_file,
)
from parti_data.text import PAD, TextTokenizer

TABLE = "samples.parquet"
GRID = "grid.png"
_GRID_COLUMNS = 8
_GRID_IMAGES = 64


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
    """A .tsv with a column Prompt and perhaps Category, as PartiPrompts.tsv; or any other text, a prompt a line."""
    samples_per_prompt: PositiveInt = 4
    sampling: Sampling = Field(default_factory=Sampling)
    batch_size: PositiveInt = 64
    seed: int = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset(
        {"prior", "image_tokenizer", "text_tokenizer", "upsampler", "prompts_file"}
    )


class Prompt(NamedTuple):
    """A text to draw, and the group that it counts in."""

    text: str
    category: str


def read_prompts(config: SampleConfig) -> list[Prompt]:
    """Return the config's prompts and those of its file; raises ConfigError where there is none."""
    prompts = [Prompt(text, "") for text in config.prompts]
    if config.prompts_file:
        try:
            lines = read_bytes(config.prompts_file).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{config.prompts_file}: expected prompts as UTF-8 text, found {error}; check prompts_file"
            ) from None
        prompts += list(_parse_table(lines, config) if config.prompts_file.endswith(".tsv") else _parse_lines(lines))
    if not prompts:
        raise ConfigError('sample: expected prompts, found none; give prompts=["…"] or prompts_file=…')
    return prompts


def _parse_lines(lines: list[str]) -> Iterator[Prompt]:
    return (Prompt(line.strip(), "") for line in lines if line.strip())


def _parse_table(lines: list[str], config: SampleConfig) -> Iterator[Prompt]:
    """Yield the prompts of tab-separated lines; quotes are text there."""
    header = lines[0].split("\t") if lines else []
    if "Prompt" not in header:
        raise ConfigError(f"{config.prompts_file}: expected a column 'Prompt', found {header}; add the header")
    for line in lines[1:]:
        row = dict(zip(header, line.split("\t"), strict=False))
        if text := row.get("Prompt", "").strip():
            yield Prompt(text, row.get("Category", ""))


def sample(config: SampleConfig) -> Manifest:
    """Sample and write PNGs, a grid and a table of tokens; return the manifest."""
    prompts = read_prompts(config)
    prior, tokenizer, text_tokenizer = _open(config)
    upsampler = _open_upsampler(config, tokenizer)
    inputs = {
        "prior": sha256_file(config.prior),
        "image_tokenizer": tokenizer.fingerprint,
        "text_tokenizer": text_tokenizer.fingerprint,
        "prompts": digest_json(prompts),
    }
    if upsampler:
        inputs["upsampler"] = sha256_file(config.upsampler)
    begun = begin(config.output, Beginning(stage="sample", config=config.deciding(), inputs=inputs))
    if isinstance(begun, Manifest):
        return begun
    places = [(number, copy) for number in range(len(prompts)) for copy in range(config.samples_per_prompt)]
    tokens, pictures, larger = [], [], list[str]()
    with show_progress("sample", len(places)) as bar:
        for start in range(0, len(places), config.batch_size):
            batch = places[start : start + config.batch_size]
            drawn = _draw(config, prior, text_tokenizer, [prompts[number] for number, _ in batch], batch)
            tokens.append(drawn)
            pictures.append(tokenizer.decode(drawn).numpy())
            if upsampler:
                larger += _write_larger(config, upsampler, batch, pictures[-1])
            bar.update(start + len(batch), "images")
    names = _write(config, prompts, places, torch.cat(tokens), np.concatenate(pictures))
    return begun.finish(
        [record_shard(config.output, name, 0) for name in [*names, *larger]],
        {"prompts": len(prompts), "images": len(places)},
        {"sampling": config.sampling.model_dump(mode="json")},
    )


def _open(config: SampleConfig) -> tuple[LoadedPrior, ImageTokenizer, TextTokenizer]:
    """Return prior and tokenizers; raises TokenizerError where they do not belong together."""
    prior, tokenizer = load_prior(config.prior), open_tokenizer(config.image_tokenizer, config.tokenizer)
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
    places: list[tuple[int, int]],
) -> torch.Tensor:
    length = prior.model.shape.max_text_length
    ids = [text_tokenizer.encode(prompt.text)[:length] for prompt in prompts]
    longest = max(len(row) for row in ids)
    text_ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in ids])
    uniform = uniform_numbers([(config.seed, *place) for place in places], prior.model.shape.num_tokens)
    return generate(prior.model, text_ids, uniform, config.sampling)


def _name(place: tuple[int, int], suffix: str = "") -> str:
    number, copy = place
    return f"sample-{number:05d}-{copy:03d}{suffix}.png"


def _write_larger(
    config: SampleConfig, upsampler: Upsampler, places: list[tuple[int, int]], pictures: np.ndarray
) -> list[str]:
    """Write pictures as the upsampler enlarges them; return the names of the files."""
    names = [_name(place, "-large") for place in places]
    for name, picture in zip(names, pictures, strict=True):
        publish_bytes(join(config.output, name), to_png(upsampler.enlarge(picture[None])[0]))
    return names


def _write(
    config: SampleConfig,
    prompts: list[Prompt],
    places: list[tuple[int, int]],
    tokens: torch.Tensor,
    pictures: np.ndarray,
) -> list[str]:
    """Write all files; return their names."""
    names = [_name(place) for place in places]
    for name, picture in zip(names, pictures, strict=True):
        publish_bytes(join(config.output, name), to_png(picture))
    table = pa.table(
        {
            "prompt": [prompts[number].text for number, _ in places],
            "category": [prompts[number].category for number, _ in places],
            "sample": [copy for _, copy in places],
            "picture": names,
            "image_tokens": tokens.tolist(),
        }
    ).replace_schema_metadata({"parti": canonical_json(config.model_dump(mode="json"))})
    with publish(join(config.output, TABLE)) as file:
        pq.write_table(table, file)
    publish_bytes(join(config.output, GRID), to_png(make_grid(pictures[:_GRID_IMAGES])))
    return [*names, TABLE, GRID]


def make_grid(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (N, S, S, 3) as one, eight a row, on white."""
    count, side = pictures.shape[:2]
    rows = -(-count // _GRID_COLUMNS)
    grid = np.full((rows * (side + 2), _GRID_COLUMNS * (side + 2), 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (side + 2) * (number // _GRID_COLUMNS), (side + 2) * (number % _GRID_COLUMNS)
        grid[top : top + side, left : left + side] = picture
    return grid
