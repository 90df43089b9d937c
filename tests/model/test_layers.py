import pytest
import torch
import torch.nn.functional as F

from model import layers
from model.layers import (
    CrossAttention,
    KeyValueCache,
    SelfAttention,
    attend,
    attend_in_parts,
    positions_2d,
    rotate,
    rotation_1d,
    rotation_2d,
)


def test_attend_equals_a_float64_reference_written_row_by_row():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    found = attend(q, k, v, mask)
    for row in range(5):
        scores = (q[:, :, row : row + 1].double() @ k[:, :, : row + 1].double().transpose(-1, -2)) / 8**0.5
        wanted = torch.softmax(scores, -1) @ v[:, :, : row + 1].double()
        torch.testing.assert_close(found[:, :, row : row + 1].double(), wanted, atol=1e-6, rtol=1e-6)


def test_attend_equals_torchs_own_kernel():
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 2, 7, 16) for _ in range(3))
    mask = torch.rand(2, 1, 7, 7) < 0.7
    mask[..., 0] = True
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), wanted, atol=1e-6, rtol=1e-5)


def test_cached_attention_equals_attention_over_the_whole_sequence():
    torch.manual_seed(2)
    layer, x = SelfAttention(16, 4), torch.randn(2, 6, 16)
    whole = layer(x, torch.ones(6, 6, dtype=torch.bool).tril())
    cache = KeyValueCache(2, 4, 6, 4, x)
    parts = [layer(x[:, :2], torch.ones(2, 2, dtype=torch.bool).tril(), cache)]
    parts += [layer(x[:, n : n + 1], None, cache) for n in range(2, 6)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-5)


def test_cross_attention_does_not_see_masked_positions():
    torch.manual_seed(3)
    layer, x, context = CrossAttention(16, 4), torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    mask = torch.tensor([True, True, True, False, False])[None, None, None]
    changed = context.clone()
    changed[:, 3:] = 100.0
    assert torch.equal(layer(x, layer.project(context), mask), layer(x, layer.project(changed), mask))


def test_positions_are_in_raster_order():
    rows, columns = torch.tensor([[10.0], [20.0]]), torch.tensor([[1.0], [2.0]])
    assert positions_2d(rows, columns).flatten().tolist() == [11, 12, 21, 22]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 256, 700])
@torch.no_grad()
def test_attention_in_parts_is_attention(dtype, length):
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(2, 3, length, 16).to(dtype) for _ in range(3))
    wanted = F.scaled_dot_product_attention(queries, keys, values)
    found = attend_in_parts(queries, keys, values)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 2e-2)


def test_a_part_of_the_scores_may_be_smaller_than_the_sequence(monkeypatch):
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(1, 1, 300, 16) for _ in range(3))
    with torch.no_grad():
        whole = attend_in_parts(queries, keys, values)
        monkeypatch.setattr(layers, "_SCORE_BYTES", 7 * 300 * 4)
        torch.testing.assert_close(attend_in_parts(queries, keys, values), whole, rtol=1e-5, atol=1e-6)
