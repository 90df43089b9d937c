"""Made pictures that cost a decoder what photographs cost, and tars of any number of them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NUM_ORIGINALS = 100
_COMMENT = b"\xff\xfe"
"""The marker of a JPEG comment. Source: ITU-T T.81, table B.1."""


def make_photo(draw: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return smooth fields of colour at five scales, as photographs have them, with a few shapes in front."""
    field = np.zeros((height, width, 3), np.float32)
    for side in (2, 4, 8, 16, 32):
        noise = draw.normal(size=(side, side, 3)) * 1.6 / side ** draw.uniform(0.6, 1.1)
        noise = (noise @ (draw.normal(size=(3, 3)) * 0.4 + 0.5)).astype(np.float32)
        planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in noise.T]
        field += np.stack([np.asarray(plane) for plane in planes], -1)
    image = Image.fromarray((128 + 60 * field + draw.normal(0, 25, 3)).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(draw.integers(0, 7)):
        (left, top), (across, down) = draw.uniform(-0.1, 1, 2) * image.size, draw.uniform(0.05, 0.5, 2) * image.size
        shape = pen.ellipse if draw.random() < 0.5 else pen.rectangle
        shape((left, top, left + across, top + down), fill=tuple(int(level) for level in draw.integers(0, 256, 3)))
    return np.asarray(image)


def make_jpegs(width: int, height: int, quality: int) -> list[bytes]:
    """Return `NUM_ORIGINALS` photographs with grain, as JPEG."""
    draw = np.random.default_rng(0)
    files = []
    for _ in range(NUM_ORIGINALS):
        grain = draw.integers(-12, 13, (height, width, 1))
        buffer = io.BytesIO()
        pixels = np.clip(make_photo(draw, width, height) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def write_tars(folder: Path, jpegs: list[bytes], num_pairs: int, pairs_per_tar: int) -> Path:
    """Write pairs as img2dataset does and return the folder; each image is distinct by a comment of its own."""
    folder.mkdir(parents=True)
    for first in range(0, num_pairs, pairs_per_tar):
        with tarfile.open(folder / f"{first // pairs_per_tar:05d}.tar", "w") as tar:
            for number in range(first, min(first + pairs_per_tar, num_pairs)):
                for extension, content in _members(jpegs, number):
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def _members(jpegs: list[bytes], number: int) -> Iterator[tuple[str, bytes]]:
    jpeg, comment = jpegs[number % len(jpegs)], b"%016d" % number
    yield "jpg", jpeg[:2] + _COMMENT + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]
    yield "txt", f"made picture number {number} of something that nobody saw".encode()
