"""Where a training run stands, as one file: networks, optimizers, what else the job keeps, and the metrics so far."""

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from parti_data.errors import CheckpointError
from parti_data.storage import is_file, join, publish_bytes, read_bytes

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"


@dataclass
class Progress:
    """How many steps are done, and the lines of the metrics so far."""

    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """Those since the last line, the newest of each; the next line tells them."""


def save(stateful: Mapping[str, Any], progress: Progress, directory: str) -> None:
    """Write the state of each part, whole or not at all, and the metrics."""
    content = io.BytesIO()
    state = {name: part.state_dict() for name, part in stateful.items()}
    told = {"step": progress.step, "metrics": json.dumps(progress.metrics), "figures": progress.figures}
    torch.save({**told, **state}, content)
    lines = "".join(json.dumps(line) + "\n" for line in progress.metrics)
    publish_bytes(join(directory, METRICS), lines.encode())
    publish_bytes(join(directory, CHECKPOINT), content.getbuffer())  # last: what it says is done is on disk


def resume(stateful: Mapping[str, Any], directory: str) -> Progress:
    """Load the directory's checkpoint, if any, into each part; return how far it had come.

    It is read into the machine's memory, from which each part takes its own to where it is.
    """
    path = join(directory, CHECKPOINT)
    if not is_file(path):
        return Progress()
    try:
        state = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
        for name, part in stateful.items():
            part.load_state_dict(state[name])
        return Progress(state["step"], json.loads(state["metrics"]), state["figures"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, TypeError, EOFError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: expected this run's checkpoint, found {first_line}; remove it to start anew"
        ) from None
