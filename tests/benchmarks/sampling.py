"""Sampling 1,024 tokens with a cache, against the same network without one and against parti-pytorch.

All decode a batch twice, with text and without, on one thread; processor time counts. Ways without a cache pass through
all tokens so far for each new one: they are timed at `NUM_LENGTHS` lengths in the middle of equal spans, and what a
whole image takes is summed from those. The peer is one decoder of the same widths, layers and codes; it gets an
environment of its own, and where it cannot be installed its figures are left out.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from model.priors.parti import Parti, PartiShape
from model.sampling.generate import Sampling, draw_tokens, filter_logits, generate, guide, uniform_numbers
from tests.benchmarks.run import OUTPUT, Figure

BATCH, TEXT_LENGTH = 4, 16
NUM_TOKENS, NUM_LENGTHS = 1024, 8
SIZE = {"width": 256, "hidden": 1024, "num_heads": 4, "num_decoder_layers": 4, "codebook_size": 8192}
SAMPLING = Sampling(guidance=3.0, top_k=819)
"""The peer's own: its loop keeps the likeliest tenth of the codes."""
VENV = OUTPUT / "sampling"
SCRIPT = Path(__file__).with_name("sampling_peer.py")
INSTALLS = (
    ("torch", "numpy", "einops", "--constraint", "constraints.txt"),
    ("--no-deps", "parti-pytorch>=0.2"),  # of what it asks for its decoder needs einops alone
)


def figures() -> Iterator[Figure]:
    torch.set_num_threads(1)
    peer_s = time_peer()
    for attention in ("dense", "conv"):
        torch.manual_seed(0)
        shape = PartiShape(num_encoder_layers=2, dropout=0.0, image_attention=attention, **SIZE)
        yield from compare(Parti(shape).eval().requires_grad_(False), peer_s)


def compare(model: Parti, peer_s: float | None) -> Iterator[Figure]:
    name = f"sampling_{model.shape.image_attention}"
    started = time.process_time()
    tokens = generate(model, text_ids(), luck(), SAMPLING)
    cached_s = time.process_time() - started
    uncached_s = whole(lambda length: time_uncached(model, length))
    print(f"{name}: {BATCH * NUM_TOKENS / cached_s:.0f} tokens/s, without a cache", end=" ")
    print(f"{BATCH * NUM_TOKENS / uncached_s:.1f}, parti-pytorch {BATCH * NUM_TOKENS / (peer_s or torch.inf):.1f}")
    yield Figure(f"{name}_tokens_as_uncached", round(share_as_uncached(model, tokens), 5), 1, "more")
    yield Figure(f"{name}_of_uncached", round(uncached_s / cached_s, 1), 20, "more")
    if peer_s:
        yield Figure(f"{name}_of_parti_pytorch", round(peer_s / cached_s, 1), 10, "more")


def whole(seconds: Callable[[int], float]) -> float:
    """Return what all tokens take, given what one takes after so many before it."""
    span = NUM_TOKENS // NUM_LENGTHS
    return sum(span * seconds(start + span // 2) for start in range(0, NUM_TOKENS, span))


def text_ids() -> Tensor:
    return torch.randint(3, 1000, (BATCH, TEXT_LENGTH), generator=torch.Generator().manual_seed(1))


def luck() -> Tensor:
    return uniform_numbers([(0, number) for number in range(BATCH)], NUM_TOKENS)


@torch.inference_mode()
def share_as_uncached(model: Parti, tokens: Tensor) -> float:
    """Return the share of the first image's tokens that are drawn from the logits of one pass over all of them too."""
    ids, first = text_ids()[:1], tokens[:1]
    logits = guide(model(ids, first)[0], model(model.without(ids), first)[0], SAMPLING.guidance)
    drawn = draw_tokens(filter_logits(logits, SAMPLING), luck()[0])
    return float((drawn == first[0]).double().mean())


def time_uncached(model: Parti, length: int) -> float:
    """Return what the next token takes after `length` others."""
    tokens = torch.randint(0, SIZE["codebook_size"], (BATCH, length + 1), generator=torch.Generator().manual_seed(2))
    ids, uniform = text_ids(), torch.full((BATCH,), 0.5)

    started = time.process_time()
    with torch.inference_mode():
        with_text, without = model(ids, tokens)[:, -1], model(model.without(ids), tokens)[:, -1]
        draw_tokens(filter_logits(guide(with_text, without, SAMPLING.guidance), SAMPLING), uniform)
    return time.process_time() - started


def time_peer() -> float | None:
    """Return what the peer takes for all tokens, or None where it cannot be had."""
    python = VENV / "bin" / "python"
    if not install():
        print("sampling: parti-pytorch cannot be installed, so it is not compared")
        return None
    settings = json.dumps(SIZE | {"batch": BATCH, "text_length": TEXT_LENGTH, "guidance": SAMPLING.guidance})
    with subprocess.Popen(
        [python, "-W", "ignore", SCRIPT, settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None

        def ask(length: int) -> float:
            print(length, file=peer.stdin, flush=True)
            return float(peer.stdout.readline())

        ask(1)  # the first pass warms
        return whole(ask)


def install() -> bool:
    """Whether the peer's environment, made once, has it."""
    ready = VENV / "peer.ready"
    if ready.exists():
        return True
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    is_installed = all(
        not subprocess.run([*pip, *words], stderr=subprocess.DEVNULL, check=False).returncode for words in INSTALLS
    )
    if is_installed:
        ready.touch()
    return is_installed
