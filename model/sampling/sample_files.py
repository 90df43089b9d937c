"""The files of a directory of samples: a picture each, a table of their tokens, and a grid of the first ones.

The table has a row for each image that was drawn, in the order of the prompts, a prompt's in the order that they were
drawn in, or best first where they were ranked:

    column         type            what
    prompt, category, challenge    strings, as they were given
    sample         int64           number among the prompt's, by which an image is drawn again
    picture        string          name of its file; empty for one that was not kept
    image_tokens   list<int64>     raster order
    given_rows     int64           so many of the token grid's rows were given, not drawn
    given_key      string          content key of the picture that they are of; empty where none was given
    score          double          cosine of the ranker; null where samples were not ranked
    rank           int64           1 for the best of its prompt; null where samples were not ranked

Until the table is whole each part of it is a file of its own, written once its pictures are there: a run that was
stopped goes on behind the last part.
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
from parti_data.storage import is_file, join, open_scattered, publish, publish_bytes, read_bytes, remove

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


class Drawn(NamedTuple):
    """An image that was drawn."""

    place: Place
    prompt: Prompt
    image_tokens: torch.Tensor
    """Int64 (I,)."""
    given_rows: int
    given_key: str
    score: float | None
    rank: int | None = None
    is_kept: bool = True


def part_name(number: int) -> str:
    """Return the name of a part of the table."""
    return f"part-{number:05d}.parquet"


def is_drawn(directory: str, number: int) -> bool:
    """Whether a part is done."""
    return is_file(join(directory, TABLE)) or is_file(join(directory, part_name(number)))


def larger_name(picture: str) -> str:
    """Return the name of the file of a picture as an upsampler enlarged it."""
    return f"{picture.removesuffix('.png')}-large.png"


def write_pictures(directory: str, names: list[str], pictures: np.ndarray) -> None:
    """Write pictures uint8 (B, S, S, 3)."""
    for name, picture in zip(names, pictures, strict=True):
        publish_bytes(join(directory, name), to_png(picture))


def write_part(directory: str, number: int, drawn: list[Drawn]) -> None:
    """Write a part of the table, when the pictures of those that are kept are there."""
    table = {
        "prompt": [one.prompt.text for one in drawn],
        "category": [one.prompt.category for one in drawn],
        "challenge": [one.prompt.challenge for one in drawn],
        "sample": [one.place.copy for one in drawn],
        "picture": [one.place.picture if one.is_kept else "" for one in drawn],
        "image_tokens": [one.image_tokens.tolist() for one in drawn],
        "given_rows": [one.given_rows for one in drawn],
        "given_key": [one.given_key for one in drawn],
        "score": pa.array([one.score for one in drawn], pa.float64()),
        "rank": pa.array([one.rank for one in drawn], pa.int64()),
    }
    with publish(join(directory, part_name(number))) as file:
        pq.write_table(pa.table(table), file)


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


def kept_pictures(directory: str) -> list[str]:
    """Return the names of the pictures in the table, in its order."""
    with open_scattered(join(directory, TABLE)) as file:
        names = pq.read_table(file, columns=["picture"])["picture"].to_pylist()
    return [name for name in names if name]


def write_grid(directory: str, names: list[str]) -> None:
    """Write the first of the pictures as one."""
    files = [read_bytes(join(directory, name)) for name in names[:_GRID_IMAGES]]
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
