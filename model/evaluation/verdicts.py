"""The verdicts on a directory's pictures of synthetic scenes."""

from collections import defaultdict

from model.evaluation.judge import Verdict, judge
from model.evaluation.sample_directory import Sample, SampleDirectory
from parti_data.progress import show_progress

NO_CATEGORY = "all"
"""What the category of prompts that have none is called."""


def judge_samples(directory: SampleDirectory) -> list[Verdict | None]:
    """Return the verdict on each sample, None for prompts that are not of the scenes' grammar."""
    verdicts = []
    with show_progress("judge", len(directory.samples)) as bar:
        for number, sample in enumerate(directory.samples, 1):
            verdicts.append(judge(directory.pixels(sample), sample.prompt))
            bar.update(number, "images")
    return verdicts


def right_by_category(samples: list[Sample], verdicts: list[Verdict | None]) -> dict[str, list[bool]]:
    """Return whether the judged samples of each category are right."""
    found: dict[str, list[bool]] = defaultdict(list)
    for sample, verdict in zip(samples, verdicts, strict=True):
        if verdict:
            found[sample.category or NO_CATEGORY].append(verdict.is_right)
    return dict(sorted(found.items()))
