"""A picture to look at: originals above, below each what came back, with a line of text under both."""

import io
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 8
CELL_PX = 144
_MARGIN_PX = 8
_TEXT_PX = 13
_LINE_PX = 18
_TITLE_PX = 30
_PAPER, _INK = (250, 250, 248), (30, 35, 40)


class Pair(NamedTuple):
    """An original, what came back, uint8 (S, S, 3) both, and a line to stand under them."""

    original: np.ndarray
    decoded: np.ndarray
    label: str


def draw_contact_sheet(pairs: list[Pair], title: str) -> bytes:
    """Return a PNG of all pairs, `COLUMNS` side by side."""
    sheet = Image.new("RGB", _size(len(pairs)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, _INK, ImageFont.load_default(_TEXT_PX + 2))
    for number, pair in enumerate(pairs):
        left, top = place(number)
        sheet.paste(_fit(pair.original), (left, top))
        sheet.paste(_fit(pair.decoded), (left, top + CELL_PX))
        draw.text((left, top + 2 * CELL_PX + 2), pair.label, _INK, ImageFont.load_default(_TEXT_PX))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def remove_pairs(sheet: np.ndarray, count: int, gone: Collection[int]) -> np.ndarray:
    """Return a sheet of `count` pairs without those of some numbers, uint8 (height, width, 3); the others move up."""
    stays = [number for number in range(count) if number not in gone]
    width, height = _size(len(stays))
    left_over = np.full((height, width, 3), _PAPER, np.uint8)
    width = min(width, sheet.shape[1])
    left_over[:_TITLE_PX, :width] = sheet[:_TITLE_PX, :width]
    for number, before in enumerate(stays):
        (left, top), (old_left, old_top) = place(number), place(before)
        cell = sheet[old_top : old_top + 2 * CELL_PX + _LINE_PX, old_left : old_left + CELL_PX]
        left_over[top : top + len(cell), left : left + CELL_PX] = cell
    return left_over


def _size(count: int) -> tuple[int, int]:
    """Return width and height of a sheet of so many pairs."""
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    return max(columns * _step_x() + _MARGIN_PX, 4 * CELL_PX), _TITLE_PX + rows * _step_y() + _MARGIN_PX


def place(number: int) -> tuple[int, int]:
    """Return where on the sheet a pair's two cells begin, one above the other."""
    row, column = divmod(number, COLUMNS)
    return _MARGIN_PX + column * _step_x(), _TITLE_PX + row * _step_y()


def cut_pairs(sheet: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the first pairs of a sheet's pixels, each uint8 (2 * CELL_PX, CELL_PX, 3), the original above."""
    corners = [place(number) for number in range(count)]
    return [sheet[top : top + 2 * CELL_PX, left : left + CELL_PX] for left, top in corners]


def _fit(pixels: np.ndarray) -> Image.Image:
    """Return the picture as large as a cell; the pixels of small ones stay squares."""
    kind = Image.Resampling.NEAREST if len(pixels) < CELL_PX else Image.Resampling.BILINEAR
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((CELL_PX, CELL_PX), kind)


def _step_x() -> int:
    return CELL_PX + _MARGIN_PX


def _step_y() -> int:
    return 2 * CELL_PX + _LINE_PX + 2 * _MARGIN_PX
