"""What `parti shard` would take: slices of the kept pairs copied into a tar in memory, on one thread, then on all."""

import hashlib
import io
import tarfile

from parti_data.errors import SourceError
from parti_data.figures import say_bytes, say_count
from parti_data.ledger import LedgerRow, PairDirectory, write_ledger
from parti_data.step_times import take_steps, timed
from parti_data.storage import file_size
from pipelines.plan.estimate import START_S, Block, Estimate, Plan, Step, measure_speedup, seconds_a_pair, steps_of
from pipelines.plan.pair_slices import read_slices
from pipelines.plan.say import say_means, say_time
from pipelines.plan.scratch import marginal
from pipelines.shard import ShardConfig, append_pairs, plan_shards

SLICE_PAIRS = 20
BASE_BYTES = 200 << 20
"""What the program takes before it has read anything."""


def plan_shard(config: ShardConfig, num_pairs: int, workers: int) -> Plan:
    """Copy some pairs in memory and return what the stage would take; raises SourceError where none is kept."""
    pairs = PairDirectory(config.source)
    if not len(pairs):
        raise SourceError(f"{config.source}: expected kept pairs, found none; see its ledger for the reasons")
    slices = read_slices(pairs, num_pairs, SLICE_PAIRS)
    copy_slice(pairs, slices.rows[0])  # what is loaded at the first use is no part of a pair's time
    copied = [copy_slice(pairs, rows) for rows in slices.rows]
    speedup = measure_speedup(lambda rows: copy_slice(pairs, rows), slices.rows, workers)
    rows = slices.all()
    blocks = [[block] for block, _ in copied]
    tar_bytes = sum(size for _, size in copied) / len(rows)
    ledger_s, ledger_bytes = marginal(lambda path, count: _write_ledger(path, rows[:count]), len(rows))
    plans = plan_shards(len(pairs), config.pairs_per_shard)
    a_pair = seconds_a_pair(blocks).scaled(1 / speedup, ledger_s + slices.ledger_row_s)
    seconds = Estimate(len(pairs)).times(a_pair).scaled(1, START_S)
    return Plan(
        "shard",
        [
            ("source", f"{config.source}, {say_count(len(pairs))} kept pairs"),
            ("sampled", f"{say_count(len(rows))} pairs in {len(slices.rows)} places"),
            ("a pair", say_means(rows)),
        ],
        [Step("ledger", slices.ledger_row_s + ledger_s), *steps_of(blocks)],
        workers,
        speedup,
        [
            ("time", say_time(seconds)),
            ("tars", f"{say_bytes(len(pairs) * tar_bytes)} in {say_count(len(plans))} tars"),
            ("ledger", say_bytes(len(pairs) * ledger_bytes)),
            ("memory", f"about {say_bytes(BASE_BYTES + workers * 2 * max(row.size for row in rows))}"),
        ],
        [],
    )


def copy_slice(pairs: PairDirectory, rows: list[LedgerRow]) -> tuple[Block, int]:
    """Copy pairs into a tar in memory; return what each step took, and the bytes of the tar without its end."""
    take_steps()
    file = io.BytesIO()
    with timed("write"), tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for _ in append_pairs(archive, pairs, rows, 0, ""):
            pass
        size = archive.offset
    with timed("digest"):
        hashlib.sha256(file.getbuffer()).hexdigest()
    return Block(len(rows), take_steps().seconds), size


def _write_ledger(path: str, rows: list[LedgerRow]) -> float:
    write_ledger(path, rows)
    return file_size(path)
