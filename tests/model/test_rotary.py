import pytest
import torch

from model.rotary import RotaryPositions, rotate, rotation_1d, rotation_2d


def test_rotated_scores_depend_on_how_far_patches_are_apart_alone():
    torch.manual_seed(4)
    query, key = torch.randn(2, 16)
    turned = rotation_2d(5, 16)
    queries = rotate(query.expand(1, 1, 25, 16), turned)[0, 0]
    keys = rotate(key.expand(1, 1, 25, 16), turned)[0, 0]
    scores = (queries @ keys.T).reshape(5, 5, 5, 5)
    for row, column in ((1, 2), (2, 1), (3, 3)):
        torch.testing.assert_close(scores[row, column, row - 1, column + 1], scores[1, 0, 0, 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[1, 1, 0, 1], scores[1, 1, 1, 0])


def test_rotated_scores_of_a_sequence_depend_on_the_distance_alone():
    torch.manual_seed(5)
    query, key = torch.randn(2, 16)
    queries, keys = (rotate(x.expand(1, 1, 9, 16), rotation_1d(9, 16))[0, 0] for x in (query, key))
    scores = queries @ keys.T
    for distance in range(-8, 9):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[0, 1], scores[1, 0])


@pytest.mark.parametrize("rotation", [rotation_1d(9, 8), rotation_2d(3, 8)])
def test_rotation_keeps_lengths(rotation):
    x = torch.randn(1, 2, 9, 8)
    torch.testing.assert_close(rotate(x, rotation).norm(dim=-1), x.norm(dim=-1))


def test_the_rotation_of_single_positions_is_that_of_the_row():
    positions = RotaryPositions(rotation_2d(3, 8))
    for position in range(9):
        for found, wanted in zip(
            positions.at(torch.tensor([position])), positions(position, position + 1), strict=True
        ):
            assert torch.equal(found, wanted)
