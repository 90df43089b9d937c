"""Trainings that measure no machine, and scripts that two processes run together."""

import runpy
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def measure_briefly() -> Iterator[None]:
    """Have each training measure one product of matrices instead of 0.2 s of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.throughput._MEASURED_S", 0.0)
        yield


@pytest.fixture(scope="session")
def run_on_ranks(processes) -> Callable[..., None]:
    """Run a script, with what it needs as globals, on two ranks; `TOLD` is what torchrun would tell each of them."""

    def run(script: Path, **given: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        globals_of = [given | {"TOLD": told | {"RANK": str(rank), "LOCAL_RANK": str(rank)}} for rank in (0, 1)]
        ranks = [
            processes.Process(target=runpy.run_path, args=(str(script), those, "__main__")) for those in globals_of
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(300)
        exits = [rank.exitcode for rank in ranks]
        for rank in ranks:
            rank.kill()
        assert exits == [0, 0]

    return run
