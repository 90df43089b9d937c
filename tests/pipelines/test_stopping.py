import signal
import subprocess
import sys

import pytest

CHILD = """
import os, signal, sys, time
from pipelines import stopping

def fail():
    raise RuntimeError("no engine")

stopping._CANCELLED_WITHIN_S = 0.5
cancels = {
    "cancelled": lambda: print("cancelled", flush=True), "failed": fail, "silent": lambda: time.sleep(60),
    "unsubmitted": None,
}
with stopping.stop_in_one_line(sys.argv[1]):
    with stopping.job_elsewhere() as job:
        job.cancel = cancels.get(sys.argv[2])
        if sys.argv[2] != "ended":
            os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
"""
GO_ON = "run the same command again to go on, what is finished is kept\n"
MAY_GO_ON = f"stopped, but the job may go on: cancel it on its engine first, then {GO_ON}"


@pytest.mark.parametrize(
    ("job", "out", "err"),
    [
        ("cancelled", "cancelled\n", f"stopped, and its engine was told to cancel the job; {GO_ON}"),
        ("failed", "", MAY_GO_ON),
        ("silent", "", MAY_GO_ON),
        ("unsubmitted", "", MAY_GO_ON),
        ("ended", "", f"stopped; {GO_ON}"),
    ],
)
def test_a_stop_cancels_the_job_elsewhere_or_says_that_it_may_go_on(tmp_path, job, out, err):
    child = subprocess.run([sys.executable, "-c", CHILD, tmp_path, job], capture_output=True, text=True, timeout=60)
    assert (child.stdout, child.stderr) == (out, err)
    assert child.returncode == 128 + signal.SIGTERM
