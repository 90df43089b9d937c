import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import attention
from model.attention import (
    CausalMask,
    KeyValueCache,
    attend,
    attend_fused,
    attend_in_blocks,
    attend_in_parts,
    attend_one_query,
    attend_written_out,
    neighbours_under,
)
from model.layers import Block, BlockShape, SelfAttention
from model.masks import column_mask, column_order, conv_mask, dense_mask, row_mask, stream_mask

MASKS = {"dense": dense_mask(6), "conv": conv_mask(6, 3), "row": row_mask(6), "column": column_mask(6)}
STREAMS = {kind: stream_mask(mask, 9)[:44, :44] for kind, mask in MASKS.items()}
"""Of 9 text positions and an image whose last token is not read."""


def causal_mask_of_stream(kind):
    return CausalMask(STREAMS[kind], num_prefix=9, order=column_order(6) if kind == "column" else None)


def attended_in_float64(q, k, v, allowed):
    """Attention under a boolean mask, written out."""
    scores = np.einsum("bhid,bhjd->bhij", q.double(), k.double()) / q.shape[-1] ** 0.5
    scores[..., ~allowed] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights @ v.double().numpy() / weights.sum(-1, keepdims=True)


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
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), wanted, atol=1e-6, rtol=1e-5)


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
        monkeypatch.setattr(attention, "_SCORE_BYTES", 7 * 300 * 4)
        torch.testing.assert_close(attend_in_parts(queries, keys, values), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("length", [36, 20])
@pytest.mark.parametrize("is_long", [False, True])
def test_attention_under_a_causal_mask_equals_a_float64_reference(kind, length, is_long, monkeypatch):
    monkeypatch.setattr(attention, "LONG_SEQUENCE", 20 if is_long else 100)
    monkeypatch.setattr(attention, "_BLOCK", 7)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8) for _ in range(3))
    found = attend(q, k, v, CausalMask(MASKS[kind])).double().numpy()
    wanted = attended_in_float64(q, k, v, MASKS[kind][:length, :length])
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("length", [44, 26, 9, 5])
@pytest.mark.parametrize("is_long", [False, True])
def test_attention_over_text_and_image_equals_a_float64_reference(kind, length, is_long, monkeypatch):
    monkeypatch.setattr(attention, "LONG_SEQUENCE", 5 if is_long else 100)
    monkeypatch.setattr(attention, "_BLOCK", 7)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8) for _ in range(3))
    found = attend(q, k, v, causal_mask_of_stream(kind)).double().numpy()
    wanted = attended_in_float64(q, k, v, STREAMS[kind][:length, :length])
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", STREAMS)
def test_attention_in_blocks_of_bfloat16_is_attention(kind, monkeypatch):
    monkeypatch.setattr(attention, "LONG_SEQUENCE", 5)
    monkeypatch.setattr(attention, "_BLOCK", 7)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 44, 8).bfloat16() for _ in range(3))
    found = attend(q, k, v, causal_mask_of_stream(kind))
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found.double(), attended_in_float64(q, k, v, STREAMS[kind]), atol=3e-2, rtol=2e-2)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("length", [36, 20])
def test_what_a_gpu_computes_is_the_same(kind, length):
    torch.manual_seed(0)
    inputs, mask = [torch.randn(2, 3, length, 8) for _ in range(3)], CausalMask(MASKS[kind])
    torch.testing.assert_close(attend_fused(*inputs, mask), attend(*inputs, mask), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("has_text", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_in_blocks_are_those_of_all_scores_at_once(kind, has_text, dtype, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 7)
    torch.manual_seed(1)
    mask = causal_mask_of_stream(kind) if has_text else CausalMask(MASKS[kind])
    length = len(mask.allowed)
    leaves = [torch.randn(1, 2, length, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    weight = torch.randn(1, 2, length, 8, dtype=dtype)
    found = torch.autograd.grad((attend_in_blocks(*leaves, mask) * weight).sum(), leaves)
    wanted = torch.autograd.grad((attend_written_out(*leaves, mask.allowed) * weight).sum(), leaves)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", STREAMS)
def test_in_blocks_a_position_depends_on_what_its_mask_allows_and_nothing_else(kind, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 7)
    torch.manual_seed(0)
    mask, x = causal_mask_of_stream(kind), torch.randn(1, 1, 44, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: attend_in_blocks(x, x, x, mask).sum((0, 1, 3)), x)
    assert isinstance(jacobian, torch.Tensor)
    assert np.array_equal((jacobian[:, 0, 0].abs().sum(-1) > 0).numpy(), STREAMS[kind])


def test_a_block_reads_no_key_that_none_of_it_sees(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 6)
    q, k, v = (torch.randn(1, 1, 36, 8) for _ in range(3))
    k[:, :, :6] = v[:, :, :6] = float("nan")
    attended = attend_in_blocks(q, k, v, CausalMask(conv_mask(6, 3)))
    assert attended[:, :, :12].isnan().any(-1).all()
    assert attended[:, :, 12:].isfinite().all()


@pytest.mark.parametrize(("kind", "spans"), [("row", [6, 12, 12]), ("column", [6, 6, 6]), ("conv", [6, 12, 12])])
def test_a_block_of_image_positions_reads_the_text_and_its_own_rows_or_columns(kind, spans, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 6)
    blocks = causal_mask_of_stream(kind).blocks(44)
    num_keys = [sum(blocks.key_sizes[piece] for piece in block.pieces) for block in blocks.blocks]
    assert num_keys[:5] == [6, 9, *(9 + span for span in spans)]
    assert num_keys == [block.allowed.shape[1] for block in blocks.blocks]


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("has_text", [False, True])
def test_cached_attention_equals_attention_over_the_whole_sequence(kind, has_text):
    torch.manual_seed(2)
    mask = causal_mask_of_stream(kind) if has_text else CausalMask(MASKS[kind])
    length = len(mask.allowed)
    layer, x = SelfAttention(BlockShape(16, 16, 4, "relu")), torch.randn(2, length, 16)
    whole = layer(x, mask)
    keys, values = torch.zeros(2, 4, length, 4), torch.zeros(2, 4, length, 4)
    for position in range(length):
        cache = KeyValueCache(keys, values, mask.seen_from(torch.tensor([position]), length))
        step = layer(x[:, position : position + 1], None, None, cache)
        torch.testing.assert_close(step[:, 0], whole[:, position], atol=1e-6, rtol=1e-5)


def test_a_step_reads_no_cached_key_that_its_kernel_does_not_reach():
    mask, position = CausalMask(conv_mask(6, 3)), 21
    keys = torch.full((1, 1, 36, 4), float("nan"))
    seen = mask.seen_from(torch.tensor([position]), 36)
    keys[:, :, mask.allowed[position]] = 1.0
    read, _ = KeyValueCache(keys, keys.clone(), seen).extend(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4))
    assert read.shape[2] == mask.allowed.sum(1).max() < 36
    assert read[:, :, seen.allowed[0]].isfinite().all()
    assert seen.allowed.sum() == mask.allowed[position].sum()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("sides", [None, (1, 61), (3, 1, 1, 61)])
def test_a_query_multiplied_out_equals_a_float64_reference(dtype, tolerance, sides):
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(3, 4, length, 16).to(dtype) for length in (1, 61, 61))
    mask = None if sides is None else torch.rand(sides) < 0.7
    found = attend_one_query(queries, keys, values, mask)
    wanted = attend_written_out(queries.double(), keys.double(), values.double(), mask)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch.compile's own
@pytest.mark.parametrize("kind", ["dense", "conv"])
@torch.inference_mode()
def test_a_compiled_block_s_step_is_that_of_the_block(kind, monkeypatch):
    device, backend = ("cuda", "inductor") if torch.cuda.is_available() else ("cpu", "aot_eager")
    torch.manual_seed(0)
    block = Block(BlockShape(16, 16, 2, "relu"), has_context=True).eval().to(device)
    x, context = torch.randn(3, 1, 16, device=device), tuple(torch.randn(2, 3, 2, 5, 8, device=device))
    context_mask = torch.arange(5, device=device) < torch.tensor([5, 3, 1], device=device)[:, None, None, None]
    seen = CausalMask(MASKS[kind]).to(device).seen_from(torch.tensor([21], device=device), 36)
    cached, told = torch.randn(2, 3, 2, 36, 8, device=device), []
    monkeypatch.setattr(attention, "attend_one_query", lambda *given: told.append(0) or attend_one_query(*given))
    steps = []
    for is_compiled in (False, True):
        if is_compiled:
            block.compile(backend=backend)
        keys, values = cached.clone()
        steps.append((block(x, None, None, KeyValueCache(keys, values, seen), context, context_mask), keys, values))
        assert len(told) == 2 * is_compiled  # of the image and of the text, when it is compiled alone
    torch.testing.assert_close(steps[1], steps[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_dense_or_not(kind):
    assert CausalMask(MASKS[kind]).is_dense == (kind == "dense")


@pytest.mark.parametrize("kind", MASKS)
def test_neighbours_are_the_positions_that_the_mask_leaves(kind):
    neighbours, is_neighbour = neighbours_under(MASKS[kind])
    for position, allowed in enumerate(MASKS[kind]):
        assert neighbours[position][is_neighbour[position]].tolist() == np.flatnonzero(allowed).tolist()
