"""A prior of emoji: its loss on emoji that it has seen no variant of, and whether a skin tone changes skin alone.

`PARTI_EMOJI=runs/emoji` goes on with what is finished in that directory, and leaves all of it there.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.evaluation.sample_directory import SampleDirectory
from parti_data.image_dataset import ImageDataset
from parti_data.ledger import PairDirectory
from tests.benchmarks.emoji import EMOJI, parti, tokenizers
from tests.benchmarks.run import Figure
from tests.benchmarks.skin_tone import LEAST_SKIN_PX, TONE, ToneChange, compare_tones

FEWER_STEPS = ("schedule.num_steps=2500", "schedule.checkpoint_every=500")
IMAGE_SIDE_PX = 64
SIDES = {"pairs": "trained on", "held_out": "held out"}
LEAST_REAL_SKIN_PX, LEAST_REAL_WAY = 160, 0.75
"""Of an emoji that is asked for: on smaller ones a token or two are skin, and others wear yellow too."""


class Prompts(NamedTuple):
    """Names of emoji without a tone, and whether they were trained on or held out."""

    names: list[str]
    sides: list[str]

    def write(self, path: str, tone: str) -> None:
        """Write a table of prompts, each name with the tone."""
        lines = [f"{name}{tone}\t{side}" for name, side in zip(self.names, self.sides, strict=True)]
        Path(path).write_text("\n".join(["Prompt\tCategory", *lines]) + "\n")


def figures() -> Iterator[Figure]:
    if not EMOJI.is_dir():
        print(f"emoji_prior: no {EMOJI}, skipped")
        return
    kept = os.environ.get("PARTI_EMOJI")
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
        make_tokens(folder)
        started = time.monotonic()
        parti("train", "prior", "prior.toml", f"source={folder}/tokens", f"held_out={folder}/held_out_tokens",
              f"output={folder}/prior")  # fmt: skip
        if not kept:
            yield Figure("emoji_prior_minutes", round((time.monotonic() - started) / 60, 2), 15, "less")
        yield from judge_losses(folder)
        yield from judge_tones(folder)
        parti("report", folder)
        page = Path(folder, "report.html").read_text()
    is_shown = "held-out loss" in page and "held out: " in page and "Samples <small>plain" in page
    yield Figure("emoji_prior_curve_and_samples", float(is_shown), 1, "more")


def make_tokens(folder: str) -> None:
    """Run all stages before the prior, on both sides of the emoji."""
    parti("filter", "filter.toml", f"source.path={EMOJI}", f"output={folder}/pairs", "rules.held_out.share=0.1")
    parti("filter", "held_out.toml", f"source.path={EMOJI}", f"output={folder}/held_out")
    parti("train", "text", "text.toml", f"source={folder}/pairs", f"output={folder}/text")
    parti("train", "tokenizer", "tokenizer_15_minutes.toml", f"source={folder}/pairs", f"output={folder}/tokenizer",
          *FEWER_STEPS)  # fmt: skip
    for source, output in (("pairs", "tokens"), ("held_out", "held_out_tokens")):
        parti("tokenize", "tokenize.toml", f"source={folder}/{source}", f"output={folder}/{output}",
              *tokenizers(folder))  # fmt: skip


def judge_losses(folder: str) -> Iterator[Figure]:
    """Yield how far the held-out loss falls, and whether it has risen again at the end."""
    lines = [json.loads(line) for line in Path(folder, "prior", "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    print("emoji_prior: held-out loss " + ", ".join(f"{loss:.3f} at {step}" for step, loss in losses.items()))
    first, *_, last = losses.values()
    yield Figure("emoji_prior_held_out_last_of_first", round(last / first, 4), 0.9, "less")
    yield Figure("emoji_prior_held_out_last_of_lowest", round(last / min(losses.values()), 4), 1.01, "less")


def judge_tones(folder: str) -> Iterator[Figure]:
    """Yield what a tone in the prompt changes, with the same luck."""
    prompts = find_prompts(folder)
    for name, tone in (("plain", ""), ("toned", TONE)):
        prompts.write(f"{folder}/{name}.tsv", tone)
        parti("sample", "sample.toml", f"prior={folder}/prior/prior.safetensors", f"output={folder}/{name}",
              f"prompts_file={folder}/{name}.tsv", *tokenizers(folder))  # fmt: skip
    plain, toned = SampleDirectory(f"{folder}/plain"), SampleDirectory(f"{folder}/toned")
    changes: dict[str, list[ToneChange]] = {side: [] for side in SIDES.values()}
    for before, after in zip(plain.samples, toned.samples, strict=True):
        assert before.picture == after.picture, (before, after)  # the same luck
        changes[before.category].append(compare_tones(plain.pixels(before), toned.pixels(after)))
    for side, found in changes.items():
        shown = with_skin(found)
        colours = [np.mean([getattr(one, name) for one in shown], axis=0).round() for name in ("plain", "toned")]
        print(
            f"emoji_prior: {side}: {len(found)} pairs of samples, {share_right(found):.0%} darker and browner; "
            f"{len(shown)} show skin twice, {share_right(shown):.0%} of them darker and browner, from {colours[0]} to "
            f"{colours[1]}, and the rest differs by {statistics.median(one.rest for one in shown):.1f} levels"
        )
    known = changes[SIDES["pairs"]]
    yield Figure("emoji_prior_darker_and_browner", round(share_right(known), 3), 0.9, "more")
    yield Figure("emoji_prior_rest_of_skin", round(share_of_rest(with_skin(known)), 3), 0.25, "less")


def with_skin(changes: list[ToneChange]) -> list[ToneChange]:
    """Return the pairs of which both pictures show skin; at least one has to."""
    shown = [change for change in changes if change.num_skin >= LEAST_SKIN_PX]
    assert shown, "no sample shows skin"
    return shown


def share_right(changes: list[ToneChange]) -> float:
    """Return the share of pairs whose skin is darker and browner; those without skin are not."""
    return statistics.mean(change.is_darker_and_browner() for change in changes)


def share_of_rest(changes: list[ToneChange]) -> float:
    """Return by how much what is not skin differs, as a share of what skin does: medians."""
    skin = statistics.median(change.skin for change in changes)
    return statistics.median(change.rest for change in changes) / skin


def find_prompts(folder: str) -> Prompts:
    """Return the emoji whose real pictures, without the tone and with it, differ in enough skin."""
    prompts = Prompts([], [])
    for directory, side in SIDES.items():
        names = {row.captions[0]: number for number, row in enumerate(PairDirectory(f"{folder}/{directory}").kept())}
        both = sorted(name for name in names if name + TONE in names)
        pictures = ImageDataset(f"{folder}/{directory}", IMAGE_SIDE_PX, 1)
        plain, toned = (pictures.pictures([names[name + tone] for name in both]) for tone in ("", TONE))
        changes = (compare_tones(before, after) for before, after in zip(plain, toned, strict=True))
        shown = [change.num_skin >= LEAST_REAL_SKIN_PX and change.way() >= LEAST_REAL_WAY for change in changes]
        prompts.names.extend(name for name, is_shown in zip(both, shown, strict=True) if is_shown)
        prompts.sides.extend([side] * sum(shown))
    return prompts
