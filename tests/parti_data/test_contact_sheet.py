import numpy as np
import pytest

from parti_data.contact_sheet import CELL_PX, Cell, Layout, break_lines, cut_pairs, draw_contact_sheet, place
from parti_data.images import ImageLimits, decode


def draw(count: int, side: int) -> tuple[list[Cell], np.ndarray]:
    colours = np.random.default_rng(0).integers(0, 256, (count, 2, 3), dtype=np.uint8)
    flat = [np.broadcast_to(colour, (2, side, side, 3)[1:]) for colours_of in colours for colour in colours_of]
    pairs = [Cell([flat[2 * n], flat[2 * n + 1]], f"{n:08x} 20.3 dB") for n in range(count)]
    sheet = decode(draw_contact_sheet(pairs, "slice 0, 20.34 dB"), ImageLimits())
    assert isinstance(sheet, np.ndarray)
    return pairs, sheet


@pytest.mark.parametrize(("count", "side"), [(1, 16), (8, 64), (11, 256)])
def test_what_was_drawn_can_be_cut_out_again(count, side):
    pairs, sheet = draw(count, side)
    for pair, cut in zip(pairs, cut_pairs(sheet, count), strict=True):
        assert cut.shape == (2 * CELL_PX, CELL_PX, 3)
        assert (cut[:CELL_PX] == pair.pictures[0][0, 0]).all()
        assert (cut[CELL_PX:] == pair.pictures[1][0, 0]).all()


def test_title_and_labels_are_written_beside_the_pictures():
    _, sheet = draw(2, 16)
    dark = sheet.max(-1) < 80
    assert dark[:30].any()  # the title
    assert dark[30 + 2 * CELL_PX : 30 + 2 * CELL_PX + 18, :CELL_PX].any()  # the first label
    assert (sheet[-8:] == (250, 250, 248)).all()


def test_a_cell_may_have_one_picture_and_several_lines():
    layout = Layout(pictures=1, lines=3)
    cells = [Cell([np.full((8, 8, 3), 20 * n, np.uint8)], "a caption that is wider than its picture") for n in range(9)]
    sheet = decode(draw_contact_sheet(cells, "rows", layout), ImageLimits())
    assert isinstance(sheet, np.ndarray)
    for number in range(9):
        left, top = place(number, layout)
        assert (sheet[top : top + CELL_PX, left : left + CELL_PX] == 20 * number).all()
        dark = sheet[top + CELL_PX : top + layout.step_y, left : left + CELL_PX].max(-1) < 80
        assert [bool(dark[18 * line : 18 * line + 18].any()) for line in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("one", ["one"]),
        ("x" * 14, ["x" * 14]),
        ("one two three four", ["one two three", "four"]),
        ("x" * 20, ["x" * 14, "x" * 6]),
        ("one two three four five six seven eight nine ten", ["one two three", "four five si…"]),
    ],
)
def test_text_is_broken_at_spaces_and_cut_off_behind_the_last_line(text, lines):
    found = break_lines(text, 2, lambda part: 10 * len(part))
    assert found == lines
    assert all(10 * len(line) <= CELL_PX for line in found)
