"""An object store: what publishing a large file costs in memory, and how images come where each answer takes 30 ms.

The store is moto's S3 in this process; what is measured is another process.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec

from parti_data.ledger import PairDirectory
from parti_data.sources import SyntheticSource
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.runner import parse_options
from pipelines.shard import ShardConfig, shard_pairs
from tests.benchmarks.run import Figure

FILE_MIB = 300
DELAY_S = 0.03
NUM_ONE_BY_ONE = 100
PUBLISH = """
import re, sys
from pathlib import Path
from parti_data.storage import publish
with publish(sys.argv[1]) as file:
    for _ in range(int(sys.argv[2])):
        file.write(bytes(1 << 20))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def figures() -> Iterator[Figure]:
    server, options = start_server()
    fsspec.config.conf["s3"] = options
    fsspec.filesystem("s3").mkdir("bucket")
    needed = publishing_mib(FILE_MIB, options) - publishing_mib(0, options)
    yield Figure(f"publish_{FILE_MIB}_mib_memory_mib", round(needed, 1), 128, "less")
    yield Figure("fetch_each_times_as_fast_as_one_by_one", round(speed_up(server), 1), 3, "more")
    server.stop()


def start_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return server, {"endpoint_url": f"http://{host}:{port}", "key": "key", "secret": "secret"}


def publishing_mib(file_mib: int, options: dict[str, str]) -> float:
    """Return the peak memory of a process that publishes a file of that size."""
    command = [sys.executable, "-c", PUBLISH, "s3://bucket/file", str(file_mib)]
    environment = os.environ | {"FSSPEC_S3": json.dumps(options)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def speed_up(server) -> float:
    """Return how many times as fast images come as they would one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        source = SyntheticSource(num_pairs=500, side_px=64)
        filter_pairs(FilterConfig(output=f"{folder}/pairs", source=source), parse_options([]))
        shard_pairs(ShardConfig(output=f"{folder}/shards", source=f"{folder}/pairs"), parse_options([]))
        for path in Path(folder, "shards").iterdir():
            fsspec.filesystem("s3").put_file(str(path), f"bucket/shards/{path.name}")
    pairs = PairDirectory("s3://bucket/shards")
    rows, answer = list(pairs.kept()), server._server.app

    def answer_late(environ, start_response):
        threading.Event().wait(DELAY_S)
        return answer(environ, start_response)

    server._server.app = answer_late
    times = [time.monotonic()]
    for row in rows[:NUM_ONE_BY_ONE]:
        pairs.fetch(row)
    times.append(time.monotonic())
    for _ in pairs.fetch_each(rows):
        pass
    times.append(time.monotonic())
    one_by_one, at_once = (times[1] - times[0]) / NUM_ONE_BY_ONE, (times[2] - times[1]) / len(rows)
    print(f"images a second: {1 / one_by_one:.0f} one by one, {1 / at_once:.0f} several at a time")
    return one_by_one / at_once
