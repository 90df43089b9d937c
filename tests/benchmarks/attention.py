"""Self-attention over image positions: the computation that `attend` chooses against the others, dense against sparse;
and over a stream of text and image positions, DALL-E's masks against dense.

Ways take turns for `ROUNDS` rounds, on one thread where they run on a CPU, and the median counts; a training pass is
forward and backward; bfloat16 is measured where the processor has it. The chosen way, which is one of the others, is
held against the best of them. Each pass follows one of the same way, so that none pays for memory that the way before
gave back. Where there is a GPU it alone is measured, several passes at a time, so that starting them is not what takes
the time; torch's FlexAttention too, compiled, without the blocks that a mask leaves out.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import CausalMask, attend, attend_in_blocks, attend_written_out
from model.masks import MaskKind, column_order, conv_mask, dense_mask, make_mask, stream_mask
from model.one_dnn import is_fast
from tests.benchmarks.run import Figure

ROUNDS = 9
PASSES = {"cpu": 1, "cuda": 8}
"""Measured together."""
HEAD_WIDTH, KERNEL_SIDE = 64, 11
BATCH_AND_HEADS = {"cpu": (1, 4), "cuda": (16, 16)}
"""Fewer on a GPU, and only its launches are measured."""
GRID_SIDES = (16, 32)
TEXT_LENGTH, STREAM_SIDE = 256, 32  # DALL-E's
STREAM_MASKS: tuple[MaskKind, ...] = ("dense", "row", "column", "conv")
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def figures() -> Iterator[Figure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if torch.cuda.is_available():
        for is_training in (False, True):
            yield from compare(32, is_training, torch.device("cuda"), torch.bfloat16)
            yield from compare_streams(is_training, torch.device("cuda"), torch.bfloat16)
        return
    for dtype in filter(is_fast, (torch.float32, torch.bfloat16)):
        for side in GRID_SIDES:
            for is_training in (False, True):
                yield from compare(side, is_training, torch.device("cpu"), dtype)
        for is_training in (False, True):
            yield from compare_streams(is_training, torch.device("cpu"), dtype)


def compare(side: int, is_training: bool, device: torch.device, dtype: torch.dtype) -> Iterator[Figure]:
    masks = {"dense": dense_mask(side), "conv": conv_mask(side, KERNEL_SIDE)}
    ways = {kind: ways_of(CausalMask(allowed), device) for kind, allowed in masks.items()}
    sides = (*BATCH_AND_HEADS[device.type], side**2, HEAD_WIDTH)
    inputs = [torch.randn(sides, device=device, dtype=dtype) for _ in range(3)]
    refuse_differing(ways, inputs)
    seconds = take_turns(ways, inputs, is_training)
    what = f"{str(dtype).removeprefix('torch.')}_{side**2}_{'training' if is_training else 'forward'}"
    for kind, taken in seconds.items():
        told = ", ".join(f"{name} {1e3 * each:.3f}" for name, each in taken.items())
        print(f"attention: {device.type}, {what}, {kind}, ms: {told}", flush=True)
        best = min(each for name, each in taken.items() if name != "chosen")
        yield Figure(
            f"attention_{device.type}_{what}_{kind}_of_best_way", round(best / taken["chosen"], 3), 0.85, "more"
        )
    ratio = seconds["dense"]["chosen"] / seconds["conv"]["chosen"]
    yield Figure(f"attention_{device.type}_{what}_conv_over_dense", round(ratio, 3), 1.5 if side == 32 else 0.9, "more")


def compare_streams(is_training: bool, device: torch.device, dtype: torch.dtype) -> Iterator[Figure]:
    """Yield how many times as fast as dense each mask is over text and image, and by which way."""
    ways = {kind: ways_of(mask_of_stream(kind), device) for kind in STREAM_MASKS}
    length = TEXT_LENGTH + STREAM_SIDE**2
    sides = (*BATCH_AND_HEADS[device.type], length, HEAD_WIDTH)
    inputs = [torch.randn(sides, device=device, dtype=dtype) for _ in range(3)]
    refuse_differing(ways, inputs)
    seconds = take_turns(ways, inputs, is_training)
    what = f"{str(dtype).removeprefix('torch.')}_{length}_{'training' if is_training else 'forward'}"
    for kind, taken in seconds.items():
        told = ", ".join(f"{name} {1e3 * each:.3f}" for name, each in taken.items())
        print(f"attention: {device.type}, {what} with text, {kind}, ms: {told}", flush=True)
        if kind != "dense":
            ratio = seconds["dense"]["chosen"] / taken["chosen"]
            yield Figure(f"attention_{device.type}_{what}_{kind}_over_dense", round(ratio, 3), 1, "more")


def mask_of_stream(kind: MaskKind) -> CausalMask:
    """Return a mask over text and image."""
    allowed = stream_mask(make_mask(kind, STREAM_SIDE, KERNEL_SIDE), TEXT_LENGTH)
    return CausalMask(allowed, TEXT_LENGTH, column_order(STREAM_SIDE) if kind == "column" else None)


def ways_of(mask: CausalMask, device: torch.device) -> dict[str, Way]:
    """Return the computations of attention under a mask."""
    mask = mask.to(device)
    ways: dict[str, Way] = {
        "chosen": lambda q, k, v: attend(q, k, v, mask),
        "fused": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed),
        "written out": lambda q, k, v: attend_written_out(q, k, v, mask.allowed),
        "blocks": lambda q, k, v: attend_in_blocks(q, k, v, mask),
    }
    if mask.is_dense:
        ways["fused causal"] = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if mask.neighbours is not None and not mask.num_prefix:  # with text it takes gigabytes
        ways["gathered"] = lambda q, k, v: attend_gathered(q, k, v, mask)
    if device.type == "cuda":
        ways["flex"] = flex(mask, device)
    return ways


def attend_gathered(queries: Tensor, keys: Tensor, values: Tensor, mask: CausalMask) -> Tensor:
    """Return attention of each query to its own neighbours, copied together."""
    assert mask.neighbours is not None
    assert mask.is_neighbour is not None
    near_keys, near_values = keys[:, :, mask.neighbours], values[:, :, mask.neighbours]
    scores = near_keys @ (queries * queries.shape[-1] ** -0.5)[..., None]
    scores = scores[..., 0].masked_fill(~mask.is_neighbour, float("-inf"))
    return (scores.softmax(-1)[..., None, :] @ near_values)[..., 0, :]


def flex(mask: CausalMask, device: torch.device) -> Way:
    """Return torch's FlexAttention, compiled for a mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = len(mask.allowed)
    blocks = create_block_mask(lambda b, h, q, k: mask.allowed[q, k], None, None, length, length, device=device.type)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=blocks)


def refuse_differing(ways: dict[str, dict[str, Way]], inputs: list[Tensor]) -> None:
    """Assert that all ways give the same."""
    for each in ways.values():
        wanted = each["written out"](*inputs)
        for way in each.values():
            torch.testing.assert_close(way(*inputs), wanted, rtol=2e-2, atol=3e-2 if wanted.itemsize == 2 else 1e-4)


def take_turns(ways: dict[str, dict[str, Way]], inputs: list[Tensor], is_training: bool) -> dict[str, dict[str, float]]:
    """Return the median seconds of each way for each mask; the first round only warms."""
    taken: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in each} for kind, each in ways.items()}
    for turn in range(ROUNDS + 1):
        for kind, each in ways.items():
            for name, way in each.items():
                _, seconds = (measure(way, inputs, is_training) for _ in range(2))
                if turn:
                    taken[kind][name].append(seconds)
    return {kind: {name: statistics.median(all_) for name, all_ in each.items()} for kind, each in taken.items()}


def measure(way: Way, inputs: list[Tensor], is_training: bool) -> float:
    """Return the seconds of a pass; of a CPU's those of the process, whatever else the machine does."""
    leaves = [tensor.detach().requires_grad_(is_training) for tensor in inputs]
    is_cuda = inputs[0].is_cuda
    clock, passes = time.perf_counter if is_cuda else time.process_time, PASSES[inputs[0].device.type]
    with torch.set_grad_enabled(is_training):
        if is_cuda:
            torch.cuda.synchronize()
        started = clock()
        for _ in range(passes):
            attended = way(*leaves)
            if is_training:
                torch.autograd.grad(attended, leaves, inputs[0])
        if is_cuda:
            torch.cuda.synchronize()
        return (clock() - started) / passes


if __name__ == "__main__":
    for figure in figures():
        print(figure.line(), flush=True)
