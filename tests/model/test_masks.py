import json

import numpy as np
import pytest

from model.masks import (
    column_mask,
    column_order,
    conv_mask,
    dense_mask,
    layer_masks,
    make_mask,
    row_mask,
    stream_mask,
)


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


@pytest.mark.parametrize("num_prefix", [0, 1, 4])
def test_an_image_sees_all_that_precedes_it_and_of_itself_what_its_mask_allows(num_prefix):
    found = stream_mask(column_mask(3), num_prefix)
    for query in range(num_prefix + 9):
        for key in range(num_prefix + 9):
            is_above = key >= num_prefix and (query - key) % 3 == 0
            assert found[query, key] == (key <= query and (query < num_prefix or key < num_prefix or is_above))


@pytest.mark.parametrize(("kind", "name"), [("conv", "conv3"), ("row", "row"), ("column", "col")])
@pytest.mark.parametrize(("text", "side"), [(6, 4), (16, 8)])
def test_masks_of_text_and_image_are_those_recorded_of_ru_dalle(kind, name, text, side, shared):
    recorded = np.load(shared / "conformance" / "masks" / f"rudalle_{name}_T{text}_G{side}.npy")
    assert np.array_equal(stream_mask(make_mask(kind, side, 3), text), recorded)


def test_every_recorded_mask_is_compared(shared):
    recorded = sorted(path.stem for path in (shared / "conformance" / "masks").glob("*.npy"))
    assert recorded == [f"rudalle_{name}_{size}" for name in ("col", "conv3", "row") for size in ("T16_G8", "T6_G4")]


def test_layers_have_the_masks_recorded_of_ru_dalle(shared):
    recorded = json.loads((shared / "conformance" / "masks" / "rudalle_layers.json").read_text())
    for depth, kinds in recorded.items():
        wanted = ["column" if kind == "col" else kind for kind in kinds]
        if depth == "62":  # column goes before conv there
            assert wanted.pop() == "column"
            wanted.append("conv")
        assert layer_masks(int(depth)) == wanted


def test_the_last_layer_is_convolutional_and_every_fourth_from_the_second_sees_columns():
    """Source: DALL-E, appendix B.1, of 64 layers counted from 1."""
    kinds = layer_masks(64)
    assert kinds[63] == "conv"
    for layer in range(1, 64):
        assert kinds[layer - 1] == ("column" if (layer - 2) % 4 == 0 else "row")


@pytest.mark.parametrize("side", [1, 2, 5])
def test_what_a_position_sees_of_its_column_stands_before_it_in_their_order(side):
    order = column_order(side)
    seen = column_mask(side)[order][:, order]
    for query in range(side**2):
        assert np.flatnonzero(seen[query]).tolist() == list(range(query // side * side, query + 1))


def test_an_11x11_kernel_sees_two_fifths_of_a_32x32_image_and_its_text():
    """Source: of 256 text positions and 32x32 tokens ru-dalle's mask leaves 0.424 of the causal triangle."""
    allowed = stream_mask(conv_mask(32, 11), 256)
    assert allowed.sum() / np.tri(1280).sum() == pytest.approx(0.424, abs=5e-4)
