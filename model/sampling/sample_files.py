"""The files of a directory of samples: a picture each, a table of their tokens, and a grid of the first ones.

Until the table is whole each batch has a part of it, written once its pictures are there: a run that was stopped goes
on behind the last part.
"""

import io
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from model.sampling.prompts import Prompt
from parti_data.images import to_png
from parti_data.storage import is_file, join, publish, publish_bytes, read_bytes, remove

TABLE = "samples.parquet"
GRID = "grid.png"
_GRID_COLUMNS = 8
_GRID_IMAGES = 64


class Place(NamedTuple):
    """Which sample this is: the prompt's number, and the number among the prompt's samples."""

    prompt: int
    copy: int

    @property
    def picture(self) -> str:
        """The name of the picture's file."""
        return f"sample-{self.prompt:05d}-{self.copy:03d}.png"

    @property
    def larger(self) -> str:
        """The name of the file of the picture as an upsampler enlarged it."""
        return f"sample-{self.prompt:05d}-{self.copy:03d}-large.png"


def part_name(number: int) -> str:
    """Return the name of a batch's part of the table."""
    return f"part-{number:05d}.parquet"


def is_drawn(directory: str, number: int) -> bool:
    """Whether a batch is done."""
    return is_file(join(directory, TABLE)) or is_file(join(directory, part_name(number)))


def write_batch(
    directory: str,
    number: int,
    prompts: list[Prompt],
    places: list[Place],
    tokens: torch.Tensor,
    pictures: np.ndarray,
) -> None:
    """Write the pictures uint8 (B, S, S, 3) of a batch, then its part of the table with tokens int64 (B, I)."""
    for place, picture in zip(places, pictures, strict=True):
        publish_bytes(join(directory, place.picture), to_png(picture))
    table = {
        "prompt": [prompt.text for prompt in prompts],
        "category": [prompt.category for prompt in prompts],
        "challenge": [prompt.challenge for prompt in prompts],
        "sample": [place.copy for place in places],
        "picture": [place.picture for place in places],
        "image_tokens": tokens.tolist(),
    }
    with publish(join(directory, part_name(number))) as file:
        pq.write_table(pa.table(table), file)


def write_larger(directory: str, places: list[Place], pictures: np.ndarray) -> None:
    """Write the enlarged pictures uint8 (B, S, S, 3) of a batch."""
    for place, picture in zip(places, pictures, strict=True):
        publish_bytes(join(directory, place.larger), to_png(picture))


def join_parts(directory: str, num_parts: int, made_by: str) -> None:
    """Make one table of the parts, with what made them in its metadata, and remove them."""
    parts = [join(directory, part_name(number)) for number in range(num_parts)]
    if not is_file(join(directory, TABLE)):
        with publish(join(directory, TABLE)) as file:
            schema = pq.read_schema(io.BytesIO(read_bytes(parts[0]))).with_metadata({"parti": made_by})
            with pq.ParquetWriter(file, schema) as table:
                for part in parts:
                    table.write_table(pq.read_table(io.BytesIO(read_bytes(part)), schema=schema))
    for part in parts:
        if is_file(part):
            remove(part)


def write_grid(directory: str, places: list[Place]) -> None:
    """Write the pictures of the first places as one."""
    files = [read_bytes(join(directory, place.picture)) for place in places[:_GRID_IMAGES]]
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    publish_bytes(join(directory, GRID), to_png(make_grid(pictures)))


def make_grid(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (N, S, S, 3) as one, eight a row, on white."""
    count, side = pictures.shape[:2]
    rows = -(-count // _GRID_COLUMNS)
    grid = np.full((rows * (side + 2), _GRID_COLUMNS * (side + 2), 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (side + 2) * (number // _GRID_COLUMNS), (side + 2) * (number % _GRID_COLUMNS)
        grid[top : top + side, left : left + side] = picture
    return grid
