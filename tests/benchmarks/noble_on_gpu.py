"""NOBLE at 100 million parameters on a GPU: steps and time in which a prior with branches has a plain prior's loss.

No data set is needed: scenes of 16x16 pixels are drawn, and a pixel's colour, three bits a channel, is its token; a
caption's words are its text ids. All start anew, those of a seed on the same rows in the same order, in bfloat16 with
compiled blocks; what is compared is the loss on scenes whose captions training never sees, at a constant rate after a
warm-up. What it finds is printed, and kept in a JSON file with its curves.

    python -m tests.benchmarks.noble_on_gpu --preset code --output runs/bench
"""

import argparse
import json
import multiprocessing
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.noble import NobleShape
from model.priors.parti import Parti, PartiShape
from model.training.loop import make_optimizer
from model.training.schedule import Schedule
from parti_data.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Split, draw_scene, make_scene
from parti_data.text import END, PAD
from tests.benchmarks.equal_loss import Points, Run, table

SIDE, BITS = 16, 3
TEXT_IDS = 24
FIRST_WORD = max(PAD, END) + 1
WORDS = ["a", "an", "and", "on", "background", *COLOURS, *BACKGROUNDS, *SHAPES, *SIZES]
NUMBERS = {word: FIRST_WORD + n for n, word in enumerate([*WORDS, *(w for name in RELATIONS for w in name.split())])}
HELD_OUT, MEASURED_EVERY = 512, 20
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """How large, how long, how fast."""

    preset: str = "code"
    rank: int = 48
    """A sixteenth of the width, so that the blocks have a tenth more parameters."""
    width: int = 768
    encoder_layers: int = 4
    decoder_layers: int = 8
    batch_size: int = 128
    num_steps: int = 500
    lr: float = 5e-4
    seeds: int = 2
    device: str = "cuda"
    output: str = "runs/bench"

    def shape(self, noble: NobleShape | None) -> PartiShape:
        """Return the architecture."""
        return PartiShape(
            text_vocabulary_size=max(NUMBERS.values()) + 1, max_text_length=TEXT_IDS, codebook_size=1 << 3 * BITS,
            grid_side=SIDE, width=self.width, hidden=4 * self.width, num_heads=max(self.width // 64, 1),
            num_encoder_layers=self.encoder_layers, num_decoder_layers=self.decoder_layers, dropout=0.0, noble=noble,
        )  # fmt: skip

    def schedule(self) -> Schedule:
        """Return the rates."""
        return Schedule(
            num_steps=self.num_steps, lr=self.lr, warmup_steps=min(50, self.num_steps // 2), decay="constant",
            beta2=0.96, weight_decay=0.045,
        )  # fmt: skip


class Rows(NamedTuple):
    """Of scenes, in order."""

    text_ids: Tensor
    """int64 (N, T)."""
    image_tokens: Tensor
    """int64 (N, I)."""

    def take(self, rows: Tensor | slice) -> "Rows":
        """Return some of them."""
        return Rows(self.text_ids[rows], self.image_tokens[rows])


def main() -> None:
    settings = read_settings()
    device = torch.device(settings.device)
    if device.type == "cuda":
        print(f"noble_on_gpu: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch._dynamo.config.recompile_limit = 64  # blocks of both kinds, of encoder and decoder, in training or not
    started = time.monotonic()
    wanted: dict[Split, int] = {"train": settings.num_steps * settings.batch_size, "new_prompts": HELD_OUT}
    with multiprocessing.get_context("spawn").Pool() as pool:
        rows, held_out = (draw_rows(pool, split, count, device) for split, count in wanted.items())
    print(f"noble_on_gpu: {len(rows.text_ids)} scenes drawn in {time.monotonic() - started:.0f} s", flush=True)
    kinds = {"plain": None, settings.preset: replace(NobleShape.PRESETS[settings.preset], rank=settings.rank)}
    runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
    for seed in range(settings.seeds):
        for kind, noble in kinds.items():
            runs[kind].append(train(settings, noble, seed, rows, held_out))
            last = runs[kind][-1]
            print(
                f"noble_on_gpu: {kind}, seed {seed}: loss {last.last:.4f}, {1e3 * last.step_s:.1f} ms a step; "
                f"{time.monotonic() - started:.0f} s so far",
                flush=True,
            )
    for line in table(runs):
        print(f"noble_on_gpu: {line}")
    keep(settings, runs)


def read_settings() -> Settings:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return Settings(**vars(parser.parse_args()))


def draw_rows(pool: Pool, split: Split, count: int, device: torch.device) -> Rows:
    """Return the first scenes of a split."""
    drawn = pool.starmap(draw_row, ((split, index) for index in range(count)), chunksize=256)
    return Rows(*(torch.from_numpy(np.stack(column)).to(device) for column in zip(*drawn, strict=True)))


def draw_row(split: Split, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a scene's text ids (T) and image tokens (I), int64."""
    scene = make_scene(0, index, split)
    words = [NUMBERS[word] for word in re.findall(r"\w+", scene.caption())]
    ids = np.full(TEXT_IDS, PAD, np.int64)
    ids[: len(words) + 1] = [*words, END]
    red, green, blue = np.moveaxis(draw_scene(scene, SIDE).astype(np.int64) >> (8 - BITS), -1, 0)
    return ids, ((red << 2 * BITS) + (green << BITS) + blue).flatten()


def train(settings: Settings, noble: NobleShape | None, seed: int, rows: Rows, held_out: Rows) -> Run:
    """Train a prior anew and return how it went; the steps before the first measuring, which compile, are not timed."""
    torch.manual_seed(seed)
    model = Parti(settings.shape(noble)).to(settings.device)
    for block in model.blocks if settings.device == "cuda" else ():
        block.compile()
    schedule = settings.schedule()
    optimizer = make_optimizer(model, schedule)
    losses: Points = []
    spent, timed = 0.0, 0
    started = now(settings.device)
    for step, batch in enumerate(batches(rows, settings, seed), 1):
        update(model, optimizer, schedule.lr_at(step - 1), batch)
        if step % MEASURED_EVERY == 0 or step == settings.num_steps:
            if losses:
                spent, timed = spent + now(settings.device) - started, timed + step - losses[-1][0]
            losses.append((step, measure(model, held_out, settings.batch_size)))
            started = now(settings.device)
    return Run(losses, spent / timed, sum(parameter.numel() for parameter in model.parameters()))


def batches(rows: Rows, settings: Settings, seed: int) -> Iterator[Rows]:
    """Yield every row once, in the seed's order."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows.text_ids))).to(rows.text_ids.device)
    for start in range(0, len(order), settings.batch_size):
        yield rows.take(order[start : start + settings.batch_size])


def update(model: Parti, optimizer: torch.optim.Optimizer, lr: float, batch: Rows) -> None:
    """Do a step as the training loop does."""
    with torch.autocast(batch.text_ids.device.type, torch.bfloat16):
        loss = model.losses(*batch)["total"]
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def measure(model: Parti, held_out: Rows, batch_size: int) -> float:
    """Return the mean loss in nats a token."""
    nats = []
    for start in range(0, HELD_OUT, batch_size):
        batch = held_out.take(slice(start, start + batch_size))
        with torch.autocast(batch.text_ids.device.type, torch.bfloat16):
            nats.append(model.row_losses(*batch))
    return torch.cat(nats).mean().item()


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def keep(settings: Settings, runs: dict[str, list[Run]]) -> None:
    """Write the settings and the curves."""
    path = Path(settings.output, f"noble_on_gpu_{settings.preset}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {kind: [run._asdict() for run in those] for kind, those in runs.items()}
    path.write_text(json.dumps({"settings": vars(settings), "runs": found}, indent=1) + "\n")
    print(f"noble_on_gpu: curves in {path}")


if __name__ == "__main__":
    main()
