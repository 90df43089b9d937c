import numpy as np
import pytest

from model.masks import column_mask, conv_mask, dense_mask, make_mask, row_mask


def written_out(grid_side, sees):
    """The mask of a rule on two (row, column) pairs, the query's and the key's, entry by entry."""
    places = [(row, column) for row in range(grid_side) for column in range(grid_side)]
    return np.array([[key <= query and sees(query, key) for key in places] for query in places])


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_dense_position_sees_itself_and_all_before_it(side):
    assert np.array_equal(dense_mask(side), written_out(side, lambda query, key: True))


@pytest.mark.parametrize(("side", "kernel"), [(1, 3), (4, 1), (5, 3), (7, 5), (4, 11)])
def test_a_convolution_sees_a_square_up_to_the_edges(side, kernel):
    def sees(query, key):
        return max(abs(query[0] - key[0]), abs(query[1] - key[1])) <= (kernel - 1) // 2

    assert np.array_equal(conv_mask(side, kernel), written_out(side, sees))


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_row_goes_back_to_the_position_above(side):
    def sees(query, key):
        return (query[0] - key[0]) * side + query[1] - key[1] <= side

    assert np.array_equal(row_mask(side), written_out(side, sees))


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_column_is_all_above(side):
    assert np.array_equal(column_mask(side), written_out(side, lambda query, key: query[1] == key[1]))


@pytest.mark.parametrize(("kind", "name"), [("conv", "conv3"), ("row", "row"), ("column", "col")])
@pytest.mark.parametrize(("text", "side"), [(6, 4), (16, 8)])
def test_masks_are_those_recorded_of_ru_dalle_less_its_text(kind, name, text, side, shared):
    recorded = np.load(shared / "conformance" / "masks" / f"rudalle_{name}_T{text}_G{side}.npy")
    assert recorded[text:, :text].all()
    assert np.array_equal(make_mask(kind, side, 3), recorded[text:, text:])


def test_an_11x11_kernel_sees_two_fifths_of_a_32x32_image_and_its_text():
    """Source: of 256 text positions and 32x32 tokens ru-dalle's mask leaves 0.424 of the causal triangle."""
    text, image = 256, 1024
    seen = conv_mask(32, 11).sum() + text * image + text * (text + 1) / 2
    assert seen / ((text + image) * (text + image + 1) / 2) == pytest.approx(0.424, abs=5e-4)
