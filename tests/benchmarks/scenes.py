"""What half an hour of training on two cores makes of synthetic scenes: right pictures by kind of prompt, what guidance
does to them, and what ranking the best of eight gains.

Everything from the pairs on is made anew, five times those of the demo; the prior alone is what half an hour is for.
Figures are shares of several samples of each prompt, none of them chosen: of new pairs there are but 32 prompts with
one object, and one sample of each would leave 7 points of chance. Charts are kept beside the figures.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from model.evaluation.curves import Curves, curve_lines
from parti_data.manifest import read_manifest
from pipelines.demo import scene_prompts
from tests.benchmarks.run import OUTPUT, Figure

NUM_PAIRS, PROMPTS_A_CATEGORY, SAMPLES, CANDIDATES = 160_000, 96, 16, 8
TEMPERATURE = 0.8
"""Above the demo's: with weight decay a prior is less sure where an object begins, and sharper samples have none."""
GUIDANCE = (1, 1.5, 2, 3, 5)
GOALS = {
    "one object": 0.98, "two objects": 0.85, "new combination": 0.85, "new combination, two objects": 0.60,
}  # fmt: skip


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield Figure("scenes_prior_minutes", round(train(folder) / 60, 1), 30, "less")
        (folder / "prompts.tsv").write_text(scene_prompts(PROMPTS_A_CATEGORY))
        yield from accuracies(folder)
        ranked(folder)
        guided(folder)


def train(folder: Path) -> float:
    """Train all that is needed; return the seconds of the prior."""
    made = f"source={folder}/pairs"
    tokenizers = tokenizers_of(folder)
    parti("filter", "filter.toml", f"source.num_pairs={NUM_PAIRS}", f"output={folder}/pairs")
    parti("filter", "held_out.toml", f"output={folder}/held_out")
    parti("train", "text", "text.toml", made, f"output={folder}/text")
    parti(
        "train", "tokenizer", "tokenizer.toml", "architecture.code_width=8", made, f"held_out={folder}/held_out",
        f"output={folder}/tokenizer",
    )  # fmt: skip
    parti("tokenize", "tokenize.toml", made, *tokenizers, f"output={folder}/tokens")
    tokens = f"source={folder}/tokens"
    parti("train", "contrastive", "contrastive.toml", tokens, f"output={folder}/contrastive")
    started = time.monotonic()
    parti("train", "prior", "prior_30_minutes.toml", tokens, f"output={folder}/prior")
    return time.monotonic() - started


def accuracies(folder: Path) -> Iterator[Figure]:
    """Yield the share of right pictures of each kind of prompt."""
    words = [f"samples_per_prompt={SAMPLES}", f"sampling.temperature={TEMPERATURE}"]
    found = judged(folder, "samples", "sample.toml", *words)
    for category, goal in GOALS.items():
        name = category.replace(",", "").replace(" ", "_")
        yield Figure(f"scenes_{name}", found["accuracy"][category], goal, "more")


def ranked(folder: Path) -> None:
    """Print and keep what the best of k candidates are."""
    words = [f"samples_per_prompt={CANDIDATES}", f"ranking.keep={CANDIDATES}"]
    words.append(f"ranking.model={folder}/contrastive/contrastive.safetensors")
    found = judged(folder, "candidates", "candidates.toml", *words, evaluate="best_of.toml")
    tell(found, "best_of", folder / "candidates_judged")


def guided(folder: Path) -> None:
    """Print and keep what guidance does."""
    directories = []
    for scale in GUIDANCE:
        words = ["samples_per_prompt=1", "sampling.temperature=1.0", f"sampling.guidance={scale}"]
        sample(folder, f"guidance_{scale}", "sample.toml", *words)
        directories.append(str(folder / f"guidance_{scale}"))
    parti("evaluate", "guidance.toml", f"curve.samples={directories}", f"output={folder}/guidance")
    tell(read_manifest(str(folder / "guidance")).details, "curve", folder / "guidance")


def judged(folder: Path, name: str, config: str, *words: str, evaluate: str = "evaluate.toml") -> dict:
    """Return the details of an evaluation of new samples."""
    sample(folder, name, config, *words)
    parti("evaluate", evaluate, f"samples={folder}/{name}", f"output={folder}/{name}_judged")
    return read_manifest(f"{folder}/{name}_judged").details


def sample(folder: Path, name: str, config: str, *words: str) -> None:
    prior = f"prior={folder}/prior/prior.safetensors"
    prompts = f"prompts_file={folder}/prompts.tsv"
    parti("sample", config, prior, prompts, *tokenizers_of(folder), *words, f"output={folder}/{name}")


def tokenizers_of(folder: Path) -> list[str]:
    return [
        f"image_tokenizer={folder}/tokenizer/tokenizer.safetensors", f"text_tokenizer={folder}/text/text.model"
    ]  # fmt: skip


def tell(details: dict, name: str, evaluation: Path) -> None:
    """Print the curves of an evaluation, and keep their picture."""
    for line in curve_lines(Curves.model_validate(details["curves"][name])):
        print(f"scenes: {line}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(evaluation / f"{name}.svg", OUTPUT / f"scenes_{name}.svg")


def parti(*words: str) -> None:
    arguments = [f"configs/demo/{word}" if word.endswith(".toml") else word for word in words]
    subprocess.run([sys.executable, "-m", "pipelines.command_line", *arguments], check=True)
