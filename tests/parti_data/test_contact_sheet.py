import numpy as np
import pytest

from parti_data.contact_sheet import CELL_PX, Pair, cut_pairs, draw_contact_sheet
from parti_data.images import ImageLimits, decode


def draw(count: int, side: int) -> tuple[list[Pair], np.ndarray]:
    colours = np.random.default_rng(0).integers(0, 256, (count, 2, 3), dtype=np.uint8)
    flat = [np.broadcast_to(colour, (2, side, side, 3)[1:]) for colours_of in colours for colour in colours_of]
    pairs = [Pair(flat[2 * n], flat[2 * n + 1], f"{n:08x} 20.3 dB") for n in range(count)]
    sheet = decode(draw_contact_sheet(pairs, "slice 0, 20.34 dB"), ImageLimits())
    assert isinstance(sheet, np.ndarray)
    return pairs, sheet


@pytest.mark.parametrize(("count", "side"), [(1, 16), (8, 64), (11, 256)])
def test_what_was_drawn_can_be_cut_out_again(count, side):
    pairs, sheet = draw(count, side)
    for pair, cut in zip(pairs, cut_pairs(sheet, count), strict=True):
        assert cut.shape == (2 * CELL_PX, CELL_PX, 3)
        assert (cut[:CELL_PX] == pair.original[0, 0]).all()
        assert (cut[CELL_PX:] == pair.decoded[0, 0]).all()


def test_title_and_labels_are_written_beside_the_pictures():
    _, sheet = draw(2, 16)
    dark = sheet.max(-1) < 80
    assert dark[:30].any()  # the title
    assert dark[30 + 2 * CELL_PX : 30 + 2 * CELL_PX + 18, :CELL_PX].any()  # the first label
    assert (sheet[-8:] == (250, 250, 248)).all()
