"""What is to be drawn: prompts from a config, from lines of text, or from a table such as PartiPrompts.tsv."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from model.priors.prior import Read
from parti_data.errors import ConfigError
from parti_data.storage import read_range
from parti_data.text import END, PAD, TextTokenizer

_MAX_BYTES = 1 << 26
"""Of a file of prompts; a million take less."""


class Prompt(NamedTuple):
    """A text to draw, the group that it counts in, and what it is to find out."""

    text: str
    category: str = ""
    challenge: str = ""


def read_prompts(texts: list[str], path: str, reads: Read) -> list[Prompt]:
    """Return some texts and the prompts of a file, if one is named; for a prior that reads nothing one without text.

    Raises ConfigError where there are none and the prior reads them, or the other way round.

    A .tsv has a column Prompt and perhaps Category and Challenge; of any other text each line is a prompt.
    """
    prompts = [Prompt(text) for text in texts]
    if path:
        try:
            content = read_range(path, 0, _MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise ConfigError(
                    f"{path}: expected prompts of at most {_MAX_BYTES >> 20} MiB, found more; split prompts_file"
                )
            lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected prompts as UTF-8 text, found {error}; check prompts_file") from None
        prompts += list(_parse_table(lines, path) if path.endswith(".tsv") else _parse_lines(lines))
    if reads == "nothing" and prompts:
        raise ConfigError(
            f"prompts: expected none for a prior that reads nothing, found {len(prompts)}; leave them out, "
            "samples_per_prompt says how many images are drawn"
        )
    if reads != "nothing" and not prompts:
        raise ConfigError('sample: expected prompts, found none; give prompts=["…"] or prompts_file=…')
    return prompts or [Prompt("")]


def _parse_lines(lines: list[str]) -> Iterator[Prompt]:
    return (Prompt(line.strip()) for line in lines if line.strip())


def _parse_table(lines: list[str], path: str) -> Iterator[Prompt]:
    """Yield the prompts of tab-separated lines; quotes are text there."""
    header = lines[0].split("\t") if lines else []
    if "Prompt" not in header:
        raise ConfigError(f"{path}: expected a column 'Prompt', found {header}; add the header")
    for line in lines[1:]:
        row = dict(zip(header, line.split("\t"), strict=False))
        if text := row.get("Prompt", "").strip():
            yield Prompt(text, row.get("Category", ""), row.get("Challenge", ""))


def encode_prompts(prompts: list[Prompt], tokenizer: TextTokenizer, length: int) -> torch.Tensor:
    """Return text ids int64 (B, T), padded to the longest; one of more than `length` ids is cut and ends with END."""
    ids = [tokenizer.encode(prompt.text) for prompt in prompts]
    ids = [line if len(line) <= length else [*line[: length - 1], END] for line in ids]
    longest = max(map(len, ids))
    return torch.tensor([line + [PAD] * (longest - len(line)) for line in ids])
