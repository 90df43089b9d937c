"""The job that judges the samples of synthetic scenes against their prompts."""

import io
from collections import defaultdict
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from model.evaluation.judge import judge
from parti_data.config import StageConfig
from parti_data.manifest import Beginning, Manifest, begin, manifest_digest, read_manifest, record_shard
from parti_data.storage import join, publish, read_bytes

VERDICTS = "verdicts.parquet"


class EvaluateConfig(StageConfig):
    """What `parti evaluate` is told."""

    samples: str
    """A directory that sample finished."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"samples"})


def evaluate(config: EvaluateConfig) -> Manifest:
    """Judge every sample whose prompt is of the scenes' grammar; return the manifest with the share that is right."""
    read_manifest(config.samples, ("sample",))
    inputs = {"samples": manifest_digest(config.samples)}
    begun = begin(config.output, Beginning(stage="evaluate", config=config.deciding(), inputs=inputs))
    if isinstance(begun, Manifest):
        return begun
    samples = pq.read_table(join(config.samples, "samples.parquet")).to_pylist()
    verdicts = [
        judge(
            np.asarray(Image.open(io.BytesIO(read_bytes(join(config.samples, row["picture"]))))),
            row["prompt"],
        )
        for row in samples
    ]
    by_category = defaultdict(list)
    for row, verdict in zip(samples, verdicts, strict=True):
        if verdict:
            by_category[row["category"] or "all"].append(verdict.is_right)
    table = pa.table(
        {
            "picture": [row["picture"] for row in samples],
            "prompt": [row["prompt"] for row in samples],
            "category": [row["category"] for row in samples],
            "is_right": pa.array([verdict.is_right if verdict else None for verdict in verdicts], pa.bool_()),
            "fault": [verdict.fault if verdict else "not judged" for verdict in verdicts],
        }
    )
    with publish(join(config.output, VERDICTS)) as file:
        pq.write_table(table, file)
    return begun.finish(
        [record_shard(config.output, VERDICTS, len(table))],
        {"judged": sum(map(len, by_category.values())), "not_judged": verdicts.count(None)},
        {"accuracy": {name: round(float(np.mean(right)), 4) for name, right in sorted(by_category.items())}},
    )
