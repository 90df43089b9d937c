"""Samples of synthetic scenes, each judged against its prompt."""

from collections import defaultdict

import numpy as np
import pyarrow as pa

from model.evaluation.judge import judge
from model.evaluation.measured import Measured
from model.evaluation.sample_directory import SampleDirectory

VERDICTS = "verdicts.parquet"
_NO_CATEGORY = "all"


def judge_scenes(directory: SampleDirectory) -> Measured:
    """Return the share of right samples for each category, and a table of verdicts; other prompts are not judged."""
    samples = directory.samples
    verdicts = [judge(directory.pixels(sample), sample.prompt) for sample in samples]
    by_category = defaultdict(list)
    for sample, verdict in zip(samples, verdicts, strict=True):
        if verdict:
            by_category[sample.category or _NO_CATEGORY].append(verdict.is_right)
    table = pa.table(
        {
            "picture": [sample.picture for sample in samples],
            "prompt": [sample.prompt for sample in samples],
            "category": [sample.category for sample in samples],
            "is_right": pa.array([verdict.is_right if verdict else None for verdict in verdicts], pa.bool_()),
            "fault": [verdict.fault if verdict else "not judged" for verdict in verdicts],
        }
    )
    accuracy = {name: round(float(np.mean(right)), 4) for name, right in sorted(by_category.items())}
    counts = {"judged": sum(map(len, by_category.values())), "not_judged": verdicts.count(None)}
    return Measured(counts=counts, tables={VERDICTS: table}, details={"accuracy": accuracy})
