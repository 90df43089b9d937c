"""How much ranking gains on synthetic scenes: the share of right pictures when the best of k candidates is taken.

One ranked directory of n candidates a prompt, all of them kept, tells it for every k up to n.
"""

from typing import NamedTuple

import numpy as np

from model.evaluation.curves import Curves, Line, Panel
from model.evaluation.judge import Verdict
from model.evaluation.sample_directory import Sample, SampleDirectory
from model.evaluation.verdicts import NO_CATEGORY
from parti_data.errors import ShardError

_MAX_CANDIDATES = 4096
"""Of a prompt, whose chances take the square of it: 128 MiB."""
BEST, ANY, ONE = "best by score", "any right", "one sample"


class RankedPrompts(NamedTuple):
    """The prompts of a category: a row for each, with whether its candidates are right, the best by score first."""

    category: str
    is_right: np.ndarray
    """Bool (P, n)."""


def best_of_weights(num_candidates: int) -> np.ndarray:
    """Return float64 (n, n): in row k - 1 the chance of each rank, the best first, to be the best of k of n candidates.

    All choices of k count alike, not the first k alone: of the same samples that is a less noisy estimate of the same
    share. The chance of rank i is C(n - i, k - 1) / C(n, k). Source: the estimator of pass@k, "Evaluating Large
    Language Models Trained on Code", arXiv 2107.03374, section 2.1, carried over to a ranked best.
    """
    chosen = np.arange(1, num_candidates + 1)
    weights = np.zeros((num_candidates, num_candidates))
    weights[:, 0] = chosen / num_candidates
    for rank in range(1, num_candidates):
        left = num_candidates - rank
        weights[:, rank] = weights[:, rank - 1] * np.maximum(left - chosen + 1, 0) / left
    return weights


def measure_best_of(groups: list[RankedPrompts]) -> Curves:
    """Return, for each category, the share of right pictures by the number of candidates: of the best by score, and
    of prompts with any right one, which no ranker can exceed; beside the share of all candidates.
    """
    panels = []
    for category, is_right in groups:
        weights = best_of_weights(is_right.shape[1])
        lines = [
            Line(name=BEST, points=_points(weights @ is_right.mean(0))),
            Line(name=ANY, points=_points(weights @ np.sort(is_right, axis=1)[:, ::-1].mean(0))),
        ]
        one = round(float(is_right.mean()), 4)
        panels.append(Panel(category=category, num_pictures=is_right.size, lines=lines, reference=(ONE, one)))
    return Curves(title="Right pictures, the best of so many candidates", x_label="candidates a prompt", panels=panels)


def _points(values: np.ndarray) -> list[tuple[float, float]]:
    return [(float(count), round(float(value), 4)) for count, value in enumerate(values, 1)]


def refuse_unranked(directory: SampleDirectory) -> None:
    """Raise ShardError where samples have no ranks, are too many, or not all that were drawn were kept."""
    if any(sample.rank is None for sample in directory.samples):
        raise ShardError(
            f"{directory.path}: expected ranked samples for best_of, found some without a rank; run sample with a "
            "table ranking into a new directory"
        )
    if len(directory.samples) < directory.num_drawn:
        raise ShardError(
            f"{directory.path}: expected all {directory.num_drawn} candidates kept for best_of, found "
            f"{len(directory.samples)}; run sample with ranking.keep=samples_per_prompt into a new directory"
        )
    counts = {len(group) for group in _by_prompt(directory.samples)}
    ranks = [sample.rank for sample in directory.samples]
    if len(counts) > 1 or ranks != [*range(1, max(counts) + 1)] * (len(ranks) // max(counts)):
        raise ShardError(
            f"{directory.path}: expected as many candidates of each prompt, best first, found others; run sample into "
            "a new directory"
        )
    if max(counts) > _MAX_CANDIDATES:
        raise ShardError(
            f"{directory.path}: expected at most {_MAX_CANDIDATES} candidates of a prompt for best_of, found "
            f"{max(counts)}; run sample with fewer samples_per_prompt into a new directory"
        )


def group_ranked(samples: list[Sample], verdicts: list[Verdict | None]) -> list[RankedPrompts]:
    """Return the prompts by category; those whose pictures were not judged are left out."""
    found: dict[str, list[list[bool]]] = {}
    judged = iter(verdicts)
    for group in _by_prompt(samples):
        is_right = [verdict.is_right for _, verdict in zip(group, judged, strict=False) if verdict]
        if is_right:
            found.setdefault(group[0].category or NO_CATEGORY, []).append(is_right)
    return [RankedPrompts(category, np.array(is_right)) for category, is_right in sorted(found.items())]


def _by_prompt(samples: list[Sample]) -> list[list[Sample]]:
    """Return the samples of each prompt, which begin with that of rank 1."""
    groups: list[list[Sample]] = []
    for sample in samples:
        if sample.rank == 1 or not groups:
            groups.append([])
        groups[-1].append(sample)
    return groups
