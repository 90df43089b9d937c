"""What is measured of our loader in a process of its own, imports excluded: `python -m tests.benchmarks.loader_ours …`.

`batches SHARDS THREADS` and `bare SHARDS` take turns with other loaders; `start SHARDS STEP STEPS` says what one start
takes, `shuffle SHARDS` how well rows are shuffled.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from parti_data import ShardReading, TokenDataset
from tests.benchmarks.loader_shuffle import measure_shuffle
from tests.benchmarks.loader_turns import endless, memory_mb, serve

BATCH = 256


def our_batches(shards: str, threads: int) -> Iterator[int]:
    """Yield our batches as torch tensors, as their number of rows."""
    dataset = TokenDataset(shards, batch_size=BATCH, seed=0, reading=ShardReading(decode_threads=threads))
    for batch in dataset:
        tensors = [torch.from_numpy(column) for column in batch if isinstance(column, np.ndarray)]
        yield len(tensors[0])


def bare_batches(shards: str) -> Iterator[int]:
    """Yield what pyarrow reads one file after the other with one thread: all columns, as Arrow has them."""
    for path in sorted(Path(shards).glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(BATCH, use_threads=False):
            yield len(batch)


def start(shards: str, step: int, steps: int) -> dict[str, float]:
    """Return what the batch of a step takes by the clock and of processors, and the peak memory after so many more."""
    libraries = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports is not ours
    began, processor = time.perf_counter(), time.process_time()
    dataset = TokenDataset(shards, batch_size=BATCH, seed=0)
    dataset.load_state_dict(dataset.state_dict() | {"step": step})
    batches = iter(dataset)
    next(batches)
    first_s, processor_s = time.perf_counter() - began, time.process_time() - processor
    for _ in islice(batches, steps):
        pass
    return {"first_s": first_s, "processor_s": processor_s, "peak_mb": memory_mb("VmHWM") - libraries}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["batches", shards, threads]:
            serve(lambda: our_batches(shards, int(threads)))
        case ["bare", shards]:
            serve(lambda: endless(lambda: bare_batches(shards)))
        case ["start", shards, step, steps]:
            print(json.dumps(start(shards, int(step), int(steps))))
        case ["shuffle", shards]:
            print(json.dumps(measure_shuffle(Path(shards))._asdict()))
