"""A plan as text."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from parti_data.figures import say_bytes, say_count, say_figure, say_seconds, say_share
from parti_data.ledger import LedgerRow
from pipelines.plan.estimate import BUSY_ERROR, QUIET_ERROR, Estimate, Plan

_NAME_WIDTH = 10
_MOST_REASONS = 8


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of a plan."""
    yield plan.title
    yield from _table(plan.source)
    yield ""
    yield from _steps(plan)
    yield ""
    yield from _table(plan.outlook)
    yield from (f"note: {note}" for note in [*plan.notes, *_busy()])


def _busy() -> Iterator[str]:
    """Yield a note where other programs leave this one less than the machine has."""
    if _is_busy():
        load, cores = os.getloadavg()[0], os.cpu_count()
        yield f"other programs are at work (load {load:.1f} on {cores} cores), and the times are those beside them"


def _is_busy() -> bool:
    return os.getloadavg()[0] > (os.cpu_count() or 1) + 1


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield f"  {name:<{_NAME_WIDTH}} {text}"


def _steps(plan: Plan) -> Iterator[str]:
    total = sum(step.seconds for step in plan.steps)
    slowest = max(plan.steps, key=lambda step: step.seconds)
    yield f"  {'step':<{_NAME_WIDTH}} {'images/s':>10} {'share':>7}"
    for step in plan.steps:
        mark = "  the bottleneck" if step is slowest else ""
        yield f"  {step.name:<{_NAME_WIDTH}} {_rate(step.seconds):>10} {100 * step.seconds / total:>5.0f} %{mark}"
    yield f"  {'together':<{_NAME_WIDTH}} {_rate(total):>10}   100 %  on one thread"
    if plan.workers > 1:
        yield f"  {'':<{_NAME_WIDTH}} {'':>10}          {plan.workers} threads are {plan.speedup:.1f} times as fast"


def _rate(seconds: float) -> str:
    return say_figure(1 / seconds) if seconds else "-"


def say_time(seconds: Estimate) -> str:
    """Say a time and the range to expect."""
    low, high = seconds.range(BUSY_ERROR if _is_busy() else QUIET_ERROR)
    return f"{say_seconds(seconds.value)}, from {say_seconds(low)} to {say_seconds(high)}"


def say_pairs(pairs: Estimate) -> str:
    """Say how many pairs there are, and how well that is known."""
    if not pairs.error:
        return f"{say_count(round(pairs.value))} pairs"
    return f"about {say_count(round(pairs.value))} pairs (± {say_share(min(2 * pairs.error, 1))}, from their sizes)"


def say_means(rows: Sequence[LedgerRow]) -> str:
    """Say what a pair holds on average: bytes and pixels of those that have an image, captions of all."""
    images = [row for row in rows if row.width] or list(rows)
    pixels = sum(row.width * row.height for row in images) / len(images)
    num_bytes = sum(row.num_bytes for row in images) / len(images)
    captions = sum(len(row.captions) for row in rows) / len(rows)
    return f"{say_bytes(num_bytes)}, {say_count(round(pixels))} pixels, {say_figure(captions)} captions an image"


def say_outcomes(outcomes: Counter[str], total: int) -> str:
    """Say the share of each outcome and reason, the most frequent first."""
    shares = [f"{say_share(number / total)} {name}" for name, number in outcomes.most_common(_MOST_REASONS)]
    return ", ".join(shares) + (" and others" if len(outcomes) > _MOST_REASONS else "")
