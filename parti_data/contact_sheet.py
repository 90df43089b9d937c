"""A picture to look at: cells of one or several pictures above each other, with lines of text under them."""

import io
from collections.abc import Callable, Collection
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


class Cell(NamedTuple):
    """Pictures, uint8 (S, S, 3) each, to stand above each other, and the text to stand under them."""

    pictures: list[np.ndarray]
    label: str


class Layout(NamedTuple):
    """How many pictures each cell has, and how many lines of text; longer text is cut off."""

    pictures: int
    lines: int

    @property
    def height(self) -> int:
        """Of a cell, its text included."""
        return self.pictures * CELL_PX + self.lines * _LINE_PX

    @property
    def step_y(self) -> int:
        """From a cell to the one below it."""
        return self.height + 2 * _MARGIN_PX


PAIRS = Layout(pictures=2, lines=1)
"""Originals above, below each what came back."""


def draw_contact_sheet(cells: list[Cell], title: str, layout: Layout = PAIRS) -> bytes:
    """Return a PNG of all cells, `COLUMNS` side by side."""
    sheet = Image.new("RGB", _size(len(cells), layout), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, _INK, ImageFont.load_default(_TEXT_PX + 2))
    font = ImageFont.load_default(_TEXT_PX)
    for number, cell in enumerate(cells):
        left, top = place(number, layout)
        for picture in cell.pictures:
            sheet.paste(_fit(picture), (left, top))
            top += CELL_PX
        for line in break_lines(cell.label, layout.lines, font.getlength):
            draw.text((left, top + 2), line, _INK, font)
            top += _LINE_PX
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def break_lines(text: str, at_most: int, width_px: Callable[[str], float]) -> list[str]:
    """Return a text as lines no wider than a cell, broken at spaces where there are any; what is left out ends in …"""
    lines, rest = [], text
    while rest and len(lines) < at_most:
        fits = next((end for end in range(min(len(rest), CELL_PX), 1, -1) if width_px(rest[:end]) <= CELL_PX), 1)
        if fits < len(rest) and (space := rest.rfind(" ", 0, fits + 1)) > 0:
            fits = space
        lines.append(rest[:fits])
        rest = rest[fits:].lstrip()
    if rest:
        lines[-1] = f"{lines[-1][:-1]}…"
    return lines


def remove_cells(sheet: np.ndarray, count: int, gone: Collection[int], layout: Layout = PAIRS) -> np.ndarray:
    """Return a sheet of `count` cells without those of some numbers, uint8 (height, width, 3); the others move up."""
    stays = [number for number in range(count) if number not in gone]
    width, height = _size(len(stays), layout)
    left_over = np.full((height, width, 3), _PAPER, np.uint8)
    width = min(width, sheet.shape[1])
    left_over[:_TITLE_PX, :width] = sheet[:_TITLE_PX, :width]
    for number, before in enumerate(stays):
        (left, top), (old_left, old_top) = place(number, layout), place(before, layout)
        cell = sheet[old_top : old_top + layout.height, old_left : old_left + CELL_PX]
        left_over[top : top + len(cell), left : left + CELL_PX] = cell
    return left_over


def _size(count: int, layout: Layout) -> tuple[int, int]:
    """Return width and height of a sheet of so many cells."""
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    return max(columns * _step_x() + _MARGIN_PX, 4 * CELL_PX), _TITLE_PX + rows * layout.step_y + _MARGIN_PX


def place(number: int, layout: Layout = PAIRS) -> tuple[int, int]:
    """Return where on the sheet a cell begins."""
    row, column = divmod(number, COLUMNS)
    return _MARGIN_PX + column * _step_x(), _TITLE_PX + row * layout.step_y


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
