"""What the tests of several processes share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def on_two_ranks(run_on_ranks) -> Callable[[list[list[str]]], None]:
    """Run several trainings one after the other by two processes: it takes longer to start them than all of their work.

    Each training is a list of words as `train_on_two_ranks.py` takes them.
    """
    script = Path(__file__).with_name("train_on_two_ranks.py")
    return lambda trainings: run_on_ranks(script, TRAININGS=trainings)
