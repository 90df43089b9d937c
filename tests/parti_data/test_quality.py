import numpy as np
import pytest
from pydantic import ValidationError

from parti_data.contact_sheet import Cell, draw_contact_sheet
from parti_data.images import ImageLimits, decode
from parti_data.quality import (
    QualityFloors,
    TokenMeter,
    TokenQuality,
    find_swap,
    psnr_db,
    say_low_psnr,
    say_low_tokens,
    swapped,
)  # fmt: skip

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
FLOORS = QualityFloors(min_psnr_db=20.0, min_code_usage=0.5, max_equal_rows=0.25)


def test_psnr_is_that_of_the_mean_squared_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    off = black.copy()
    off[0] = 51  # a fifth, in half of the pictures
    assert psnr_db(black, off) == pytest.approx(-10 * np.log10(0.2**2 / 2), abs=0.005)
    assert psnr_db(black, black) == 99.0


def test_codes_and_rows_that_equal_another_image_s_are_counted_over_all_that_was_added():
    meter = TokenMeter(8)
    meter.add(["a"], np.array([[0, 1, 2]]))
    meter.add(["b", "c"], np.array([[0, 1, 2], [2, 1, 0]]))
    meter.add(["c", "d"], np.array([[2, 1, 0], [2, 1, 3]]))  # two views of c
    assert meter.measured() == TokenQuality(rows=5, code_usage=0.5, equal_rows=0.4)
    assert TokenMeter(8).measured() == TokenQuality(rows=0, code_usage=0.0, equal_rows=0.0)


def test_swapped_channels_are_told_and_right_ones_are_not():
    noisy = np.clip(PICTURES.astype(int) + 20, 0, 255).astype(np.uint8)
    assert find_swap(PICTURES, noisy) == ""
    assert find_swap(PICTURES, swapped(noisy)).startswith("red and blue look swapped (2")
    grey = PICTURES[..., :1].repeat(3, -1)
    assert find_swap(grey, swapped(grey)) == ""  # nobody can tell


@pytest.mark.parametrize(
    ("found_db", "mixup", "changes", "said"),
    [
        (20.0, "", {}, ""),
        (19.99, "", {}, "expected pictures to come back at 20 dB (quality.min_psnr_db), found 19.99 dB"),
        (9.0, "x", {}, "expected pictures to come back at 20 dB (quality.min_psnr_db), found 9 dB; x"),
        (30.0, "x", {}, "expected pictures to come back as they are (quality.refuse_mixups), found 30 dB; x"),
        (30.0, "x", {"refuse_mixups": False}, ""),
        (1.0, "x", {"min_psnr_db": 0.0}, ""),
    ],
)
def test_a_sample_passes_at_its_floor_and_with_nothing_mixed_up(found_db, mixup, changes, said):
    assert say_low_psnr(found_db, FLOORS.model_copy(update=changes), mixup) == said


@pytest.mark.parametrize(
    ("code_usage", "equal_rows", "said"),
    [
        (0.5, 0.25, ""),
        (0.4999, 0.0, "expected 50.00% of the codes in use (quality.min_code_usage), found 49.99%"),
        (
            0.5, 0.26,
            "expected at most 25.00% of the rows with another image's tokens (quality.max_equal_rows), found 26.00%",
        ),
    ],
)  # fmt: skip
def test_tokens_pass_at_their_floors(code_usage, equal_rows, said):
    assert say_low_tokens(TokenQuality(rows=4, code_usage=code_usage, equal_rows=equal_rows), FLOORS) == said


def test_shares_lie_between_none_and_all():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        QualityFloors(max_equal_rows=2.0)


def test_a_sample_that_no_contact_sheet_holds_is_refused():
    with pytest.raises(ValidationError, match="less than or equal to 256"):
        QualityFloors(sample=257)
    picture = np.zeros((8, 8, 3), np.uint8)
    sheet = decode(draw_contact_sheet([Cell([picture, picture], "x")] * 256, "x"), ImageLimits())
    assert isinstance(sheet, np.ndarray)
