"""Samples of synthetic scenes, each judged against its prompt."""

import numpy as np
import pyarrow as pa

from model.evaluation.best_of import group_ranked, measure_best_of
from model.evaluation.measured import Measured
from model.evaluation.sample_directory import SampleDirectory
from model.evaluation.verdicts import judge_samples, right_by_category

VERDICTS = "verdicts.parquet"
BEST_OF = "best_of"


def judge_scenes(directory: SampleDirectory, has_best_of: bool) -> Measured:
    """Return the share of right samples for each category, and a table of verdicts; other prompts are not judged.

    With `has_best_of` also the share for the best of so many candidates of a prompt.
    """
    samples = directory.samples
    verdicts = judge_samples(directory)
    table = pa.table(
        {
            "picture": [sample.picture for sample in samples],
            "prompt": [sample.prompt for sample in samples],
            "category": [sample.category for sample in samples],
            "is_right": pa.array([verdict.is_right if verdict else None for verdict in verdicts], pa.bool_()),
            "fault": [verdict.fault if verdict else "not judged" for verdict in verdicts],
        }
    )
    by_category = right_by_category(samples, verdicts)
    accuracy = {name: round(float(np.mean(right)), 4) for name, right in by_category.items()}
    counts = {"judged": sum(map(len, by_category.values())), "not_judged": verdicts.count(None)}
    curves = {BEST_OF: measure_best_of(group_ranked(samples, verdicts))} if has_best_of else {}
    return Measured(counts=counts, tables={VERDICTS: table}, details={"accuracy": accuracy}, curves=curves)
