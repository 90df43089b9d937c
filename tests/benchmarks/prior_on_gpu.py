"""Parti-750M on a GPU: training against its rate of large products of matrices, sampling against its memory.

Training is the whole job with its loader, on random rows of 1,024 tokens, as `configs/train/parti_750m.toml` has it but
for the batch; a part of a batch is the largest of `PARTS` that fits. Sampling reads, at each position, the matrices of
the decoder and what the position sees of the caches and of its text; the time for those bytes, at the rate of a large
copy, is the least that it can take. Without a GPU nothing is measured.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import tests.benchmarks.loader_data as data
from model.priors.parti import Parti, PartiShape
from model.sampling.decoding import DecodingExecution, prepare
from model.sampling.generate import Sampling, generate, uniform_numbers
from model.shapes import make_shape
from parti_data.config import read_toml
from tests.benchmarks.run import Figure

CONFIG = "configs/train/parti_750m.toml"
NUM_ROWS, TEXT_IDS = 2_048, 64
PARTS, BATCH_PARTS, STEPS, TOLD_EVERY = (64, 48, 32, 16), 16, 6, 2
LEAST_BYTES_A_ROW = 16 * 10**8
"""Of a part; where there is not as much, it is not tried, since each try takes a start and a compilation."""
IMAGES = 192
"""Sampled together, each with text and without."""
COPIED_BYTES = 4 << 30


def figures() -> Iterator[Figure]:
    if not torch.cuda.is_available():
        print("prior_on_gpu: there is no GPU, so nothing is measured")
        return
    print(f"prior_on_gpu: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    rate = copy_rate()
    for attention in ("dense", "conv"):
        yield Figure(f"sampling_{attention}_of_memory_bound", round(sampling_share(attention, rate), 3), 0.5, "more")
    with tempfile.TemporaryDirectory() as name:
        tokens = data.write_directory(Path(name) / "tokens", NUM_ROWS, data.uniform_codes)
        for attention in ("conv", "dense"):
            mfu = training_mfu(attention, tokens, Path(name))
            yield Figure(f"training_{attention}_mfu", round(mfu, 3), 0.5, "more")


def copy_rate() -> float:
    """Return the bytes a second, read and written, of the fastest of some large copies."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    fastest = min(seconds_of(lambda: target.copy_(source)) for _ in range(8))
    return 2 * COPIED_BYTES / fastest


def seconds_of(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def shape_of(attention: str) -> PartiShape:
    return make_shape(PartiShape, read_toml(CONFIG)["architecture"] | {"image_attention": attention})


def sampling_share(attention: str, rate: float) -> float:
    """Return the share of its time that sampling a batch would take if it only read what it must."""
    torch.manual_seed(0)
    model = Parti(shape_of(attention)).eval().requires_grad_(False)
    prepare(model, DecodingExecution(device="cuda", precision="bfloat16", compile=True))
    text_ids = torch.randint(3, 16_000, (IMAGES, TEXT_IDS))
    luck = uniform_numbers([(0, number) for number in range(IMAGES)], model.shape.num_tokens)
    sampling = Sampling(guidance=1.2)
    generate(model, text_ids, luck, sampling)  # which compiles
    started = time.perf_counter()
    generate(model, text_ids, luck, sampling)
    taken = time.perf_counter() - started
    least = bytes_read(model, 2 * IMAGES) / rate
    print(
        f"prior_on_gpu: {attention}, {IMAGES} images with guidance in {taken:.2f} s, {IMAGES / taken:.2f} images/s; "
        f"{least:.2f} s for the bytes at {rate / 1e12:.2f} TB/s; {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    )
    del model
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return least / taken


def bytes_read(model: Parti, rows: int) -> int:
    """Return what all steps of a batch have to read, in bfloat16."""
    shape = model.shape
    matrices = sum(
        weight.numel()
        for name, weight in [*model.decoder.named_parameters(), *model.to_logits.named_parameters()]
        if weight.dim() == 2 and "to_kv" not in name
    )
    seen = int(model.mask.allowed.sum())
    text = shape.num_tokens * (TEXT_IDS + 1) // 2  # a row without text sees but the end of it
    values_a_row = 2 * shape.num_decoder_layers * shape.width * (seen + text)
    return 2 * (shape.num_tokens * matrices + rows * values_a_row)


def training_mfu(attention: str, tokens: Path, folder: Path) -> float:
    """Return the MFU that the job tells, of the largest parts that fit; the lines before it has compiled left out."""
    told: list[dict[str, float]] = []
    memory = torch.cuda.get_device_properties(0).total_memory
    for rows in (rows for rows in PARTS if rows * LEAST_BYTES_A_ROW < memory):
        if told := train(attention, rows, tokens, folder / f"{attention}-{rows}"):
            break
    else:
        raise RuntimeError(
            f"expected parts of {PARTS[-1]} rows to fit, found that none do; read above what they end in"
        )
    for line in told:
        print(
            f"prior_on_gpu: {attention}: {line['mfu']:.3f} of {line['matmul_peak_tflops']:.0f} TFLOP/s, "
            f"{line['tokens_per_s']:,.0f} tokens/s, {line['memory_bytes'] / 1e9:.1f} GB"
        )
    return statistics.median(line["mfu"] for line in told[1:])


def train(attention: str, rows: int, tokens: Path, output: Path) -> list[dict[str, float]]:
    """Return what the job tells of its speed with parts of so many rows; nothing where they do not fit."""
    overrides = {
        "source": tokens, "output": output, "batch_size": rows * BATCH_PARTS, "batch_parts": BATCH_PARTS,
        "text.length": TEXT_IDS, "text.pad_to": "length", "architecture.max_text_length": TEXT_IDS,
        "architecture.image_attention": attention,
        "schedule.num_steps": STEPS, "schedule.warmup_steps": 2, "schedule.decay_start": 4,
        "schedule.log_every": TOLD_EVERY, "schedule.checkpoint_every": STEPS, "running.compile": "true",
    }  # fmt: skip
    command = [sys.executable, "-m", "pipelines.command_line", "train", "prior", CONFIG]
    command += [f"{name}={value}" for name, value in overrides.items()]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        told = f"parts of {rows} rows end in: {first_error(ended.stderr)}\n{ended.stderr.strip()[-600:]}"
        if "out of memory" not in ended.stderr:
            raise RuntimeError(f"{attention}: expected training to end well, found that {told}")
        print(f"prior_on_gpu: {attention}: {told}", flush=True)
        return []
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "mfu" in line]


def first_error(told: str) -> str:
    """Return the first line that names an error."""
    return next((line.strip() for line in told.splitlines() if "Error" in line), "no error")


if __name__ == "__main__":
    for figure in figures():
        print(figure.line(), flush=True)
