"""What `parti filter` would take: its own functions on a few pairs of some splits, on one thread, then on all."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from parti_data.benchmarks import read_benchmarks
from parti_data.errors import SourceError
from parti_data.figures import say_bytes, say_count
from parti_data.ledger import EXACT_DUPLICATE, KEPT, MERGED, LedgerRow, write_measures
from parti_data.sources.pairs import SourceSplit
from parti_data.sources.sampling import Sample, count_pairs, sample_split, spread_splits
from parti_data.step_times import take_steps, timed
from parti_data.storage import file_size, file_sizes
from pipelines.candidates import Packing
from pipelines.duplicates import Duplicates
from pipelines.filter import FilterConfig
from pipelines.fragments import fragment_path
from pipelines.judge_pairs import Judging, judge_split, judged_rows
from pipelines.measure_pairs import Measuring, measure_pair
from pipelines.plan.estimate import (
    START_S,
    Block,
    Estimate,
    Plan,
    Step,
    cut,
    measure_speedup,
    ratio,
    seconds_a_pair,
    steps_of,
)
from pipelines.plan.say import say_means, say_outcomes, say_pairs, say_time
from pipelines.plan.scratch import marginal
from pipelines.plan.sizes import CODEBOOK_SIZE, NUM_TOKENS, tar_pair_bytes, token_row_bytes
from pipelines.write_ledgers import write_split_ledger

MAX_SPLITS = 20
BASE_BYTES = 240 << 20
"""What the program takes before it has read anything."""
ROW_BYTES = 400
"""What the local engine holds of a row while rows are judged: some 30 bytes are shuffled, several times over."""
NEAR_ROW_BYTES, BAND_BYTES = 1500, 64
"""What it holds more in search of near-duplicates: of a row, and of it in each band; of mirror images both again.

Measured on two threads with 40,000 to 120,000 rows, all kept: 425 bytes a row without near-duplicates, 2.1 KB with
them in 4 bands, 2.9 KB in 16, 5.6 KB with their mirror images.
"""
PIXEL_BYTES = 12
"""What a worker holds of a pixel while a picture is decoded, turned and hashed."""
_LEAST_ERROR = 0.01
"""Of a number of pairs that was not counted, however alike the splits are."""


class Sampled(NamedTuple):
    """What became of the sample of one split, and what that took."""

    split: SourceSplit
    sample: Sample
    rows: list[LedgerRow]
    blocks: list[Block]


class Judged(NamedTuple):
    """What became of the sampled rows, which have an image, and what one of them takes after it is measured."""

    outcomes: Counter[str]
    usable: list[LedgerRow]
    write_s: float
    judge_s: float
    ledger_bytes: float


def plan_filter(config: FilterConfig, num_pairs: int, workers: int) -> Plan:
    """Measure some pairs and return what the stage would take; raises SourceError where no pair is found."""
    splits = config.source.splits()
    measuring = Measuring(config.source, config.limits, tuple(config.fields), config.output)
    sampled = sample_source(measuring, splits, num_pairs)
    rows = [row for part in sampled for row in part.rows]
    judged = judge_rows(config, rows)
    pairs = [pair for part in sampled for pair in part.sample.pairs]
    speedup = measure_speedup(lambda pair: measure_pair(pair, "", measuring), pairs, workers)
    take_steps()
    total = estimate_pairs(config, splits, sampled)
    parts = [part.blocks for part in sampled]
    a_pair = seconds_a_pair(parts).scaled(1 / speedup, judged.write_s + judged.judge_s)
    source = [
        ("source", f"{config.source.kind}, {say_count(len(splits))} splits, {say_pairs(total)}"),
        ("sampled", f"{say_count(len(rows))} pairs of {len(sampled)} splits"),
        ("a pair", say_means(rows)),
        ("outcome", say_outcomes(judged.outcomes, len(rows))),
    ]
    steps = [*steps_of(parts), Step("write", judged.write_s), Step("judge", judged.judge_s)]
    outlook = [
        ("time", say_time(total.times(a_pair).scaled(1, START_S))),
        *_sizes(total.value, rows, judged, workers, config.duplicates),
    ]
    return Plan("filter", source, steps, workers, speedup, outlook, _notes(config, judged))


def sample_source(measuring: Measuring, splits: list[SourceSplit], num_pairs: int) -> list[Sampled]:
    """Return what some pairs of some splits became; splits that lie evenly come first, others where those are short."""
    a_split = -(-num_pairs // min(len(splits), MAX_SPLITS))
    sampled: list[Sampled] = []
    found = 0
    for split in spread_splits(splits, MAX_SPLITS):
        part = _sample(measuring, split, min(a_split, num_pairs - found), is_first=not sampled)
        sampled += [part] if part.rows else []
        found += len(part.rows)
        if found >= num_pairs:
            break
    if not found:
        raise SourceError(f"{splits[0].path}: expected pairs to measure, found none; check source.path")
    return sampled


def _sample(measuring: Measuring, split: SourceSplit, count: int, is_first: bool) -> Sampled:
    take_steps()
    with timed("read"):
        sample = sample_split(measuring.source, split, count, measuring.limits.max_bytes)
    read_s = take_steps().seconds["read"]
    rows: list[LedgerRow] = []
    blocks = []
    if is_first and sample.pairs:  # what is loaded at the first use is no part of a pair's time
        measure_pair(sample.pairs[0], split.path, measuring)
    for pairs in cut(sample.pairs):
        take_steps()
        rows += [measure_pair(pair, split.path, measuring) for pair in pairs]
        read = {"read": read_s * len(pairs) / max(len(sample.pairs), 1)}
        blocks.append(Block(len(pairs), read | take_steps().seconds))
    return Sampled(split, sample, rows, blocks)


def estimate_pairs(config: FilterConfig, splits: list[SourceSplit], sampled: list[Sampled]) -> Estimate:
    """Return how many pairs the source has: counted where that is cheap, else by the bytes of its files."""
    known = count_pairs(config.source, splits)
    if known is not None:
        return Estimate(known)
    if len(sampled) == len(splits) and all(part.sample.is_exact for part in sampled):
        return Estimate(sum(part.sample.num_pairs for part in sampled))
    sizes = dict(zip(splits, file_sizes([split.path for split in splits]), strict=True))
    a_byte = ratio([(part.sample.num_pairs, sizes[part.split]) for part in sampled])
    return Estimate(a_byte.value * sum(sizes.values()), max(a_byte.error, _LEAST_ERROR))


def judge_rows(config: FilterConfig, rows: list[LedgerRow]) -> Judged:
    """Write and judge the rows as the stage does, in memory."""
    benchmarks = read_benchmarks(config.benchmarks, config.limits)
    outcomes: Counter[str] = Counter()

    def write(directory: str, count: int) -> float:
        write_measures(fragment_path(directory, 0), rows[:count])
        return file_size(fragment_path(directory, 0))

    def write_and_judge(directory: str, count: int) -> float:
        num_bytes = write(directory, count)
        judging, packing = Judging(config.rules, directory, benchmarks), Packing(1)
        packed = b"".join(content for _, (_, content) in judge_split(0, judging, packing))
        keys = np.frombuffer(packed, packing.dtype)["key"].tolist()
        for _ in judged_rows(0, judging):  # again, where rows that have company are gathered
            pass
        file = write_split_ledger((0, []), judging, 1)
        outcomes.clear()
        outcomes.update(file.counts)
        if merged := len(keys) - len(set(keys)):
            outcomes.update({KEPT: -merged, f"{MERGED} {EXACT_DUPLICATE}": merged})
        return num_bytes + file.shard.bytes

    write_s, _ = marginal(write, len(rows))
    both_s, num_bytes = marginal(write_and_judge, len(rows))
    usable = [row for row in rows if row.outcome == KEPT]
    return Judged(outcomes, usable, write_s, max(both_s - write_s, 0), num_bytes)


def _sizes(
    total: float, rows: list[LedgerRow], judged: Judged, workers: int, duplicates: Duplicates
) -> list[tuple[str, str]]:
    kept = total * judged.outcomes[KEPT] / len(rows)
    return [
        ("ledger", f"{say_bytes(total * judged.ledger_bytes)}, the measures that it is made of among them"),
        ("tars", f"{say_bytes(kept * tar_pair_bytes(judged.usable))} where parti shard copies what is kept"),
        (
            "tokens",
            f"{say_bytes(kept * token_row_bytes(judged.usable))} with {NUM_TOKENS} of {say_count(CODEBOOK_SIZE)} codes "
            "an image",
        ),
        ("memory", f"about {say_bytes(estimate_memory(total, rows, workers, duplicates))}"),
    ]


def estimate_memory(num_rows: float, rows: list[LedgerRow], workers: int, duplicates: Duplicates) -> float:
    """Return the bytes that the stage would hold at once: a large picture a worker, a small record a row."""
    largest = max((row.width * row.height for row in rows if row.outcome == KEPT), default=0)
    near = (NEAR_ROW_BYTES + BAND_BYTES * (duplicates.max_distance + 1)) * (1 + duplicates.mirrored)
    a_row = ROW_BYTES + (near if duplicates.near else 0)
    return BASE_BYTES + workers * largest * PIXEL_BYTES + num_rows * a_row


def _notes(config: FilterConfig, judged: Judged) -> list[str]:
    notes = ["duplicates are only found among all pairs, so fewer may be kept"]
    if config.rules.max_rows_per_caption:
        notes.append("captions that many rows share are only found among all pairs too")
    if config.duplicates.near:
        notes.append("the search for near-duplicates is not in the time")
    dropped = sum(number for name, number in judged.outcomes.items() if name.startswith("dropped"))
    if dropped > config.max_dropped_fraction * judged.outcomes.total():
        notes.append(f"the stage would fail: more is dropped than max_dropped_fraction = {config.max_dropped_fraction}")
    return notes
