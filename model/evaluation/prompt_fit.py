"""How well samples fit their prompts: the CLIP score of each, and its mean over groups of prompts."""

import math

import numpy as np
import pyarrow as pa

from model.evaluation.clip import Clip
from model.evaluation.clip_score import clip_scores
from model.evaluation.measured import Measured
from model.evaluation.prompt_groups import mean_by_group
from model.evaluation.sample_directory import SampleDirectory
from parti_data.progress import show_progress

SCORES = "clip_scores.parquet"


def measure_prompt_fit(clip: Clip, directory: SampleDirectory, batch_size: int) -> Measured:
    """Return the mean score with its standard error over prompts, those of groups, and a table of all scores."""
    samples = directory.samples
    found = []
    with show_progress("CLIP score", len(samples)) as bar:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            pictures = clip.picture_features([directory.pixels(sample) for sample in batch])
            found.append(clip_scores(pictures, clip.text_features([sample.prompt for sample in batch])))
            bar.update(start + len(batch), "images")
    scores = np.concatenate(found)
    prompts, places = np.unique([sample.prompt for sample in samples], return_inverse=True)
    by_prompt = np.bincount(places, scores) / np.bincount(places)
    figures = {"clip_score": float(by_prompt.mean())}
    if len(prompts) > 1:
        figures["clip_score_standard_error"] = float(by_prompt.std(ddof=1) / math.sqrt(len(prompts)))
    table = pa.table(
        {
            "picture": [sample.picture for sample in samples],
            "prompt": [sample.prompt for sample in samples],
            "score": scores,
        }
    )
    groups = mean_by_group(samples, scores.tolist())
    return Measured(figures, {"scored": len(scores)}, {SCORES: table}, details={"clip_score": groups})
