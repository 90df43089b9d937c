"""What the tests of several processes share."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def on_two_ranks() -> Callable[[list[list[str]]], None]:
    """Start two processes with what torchrun would tell them, for several trainings one after the other: it takes
    longer to start them than all of their work. Each training is a list of words as `train_on_two_ranks.py` takes them.
    """

    def start(trainings: list[list[str]]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        script, root = str(Path(__file__).with_name("train_on_two_ranks.py")), str(Path(__file__).parents[3])
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen(
                [sys.executable, script, json.dumps(trainings)], stderr=subprocess.PIPE, text=True,
                env=os.environ | told | {"RANK": str(rank), "PYTHONPATH": root},
            )
            for rank in (0, 1)
        ]  # fmt: skip
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], errors

    return start
