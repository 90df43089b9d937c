"""A process of the local engine: Beam's worker, which ends with its run and leaves telling of errors to it."""

import logging
import os
import shlex
import sys

from parti_data.processes import end_with_parent
from pipelines.first_error import share_errors


def worker_command() -> str:
    """Return the shell's command that starts one for this process."""
    return f"exec {shlex.join([sys.executable, '-m', 'pipelines.local_worker', str(os.getpid())])}"


def main() -> None:
    """Work for the run whose process is named, silent, until it ends."""
    end_with_parent(int(sys.argv[1]))
    share_errors()
    logging.disable(logging.CRITICAL)
    from apache_beam.runners.worker import sdk_worker_main  # which logs when it is imported

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # where Beam prints the traceback of each error that it sends
    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
