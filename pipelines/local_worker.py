"""A process of the local engine: Beam's worker, which ends with its run and leaves telling of errors to it."""

import logging
import os
import shlex
import sys

from parti_data.processes import end_with_parent
from pipelines.first_error import note_error, share_errors


def worker_command() -> str:
    """Return the shell's command that starts one for this process, which imports from where this one does."""
    work = f"import sys; sys.path[:] = {sys.path}; from pipelines.local_worker import main; main({os.getpid()})"
    return f"exec {shlex.join([sys.executable, '-c', work])}"


def main(run: int) -> None:
    """Work for the run in the process of this id, silent, until that ends."""
    end_with_parent(run)
    share_errors()
    logging.disable(logging.CRITICAL)
    from apache_beam.runners.worker import sdk_worker_main  # which logs when it is imported

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # where Beam prints the traceback of each error that it sends
    try:
        sdk_worker_main.main([])
    except Exception as error:
        note_error(error)
        raise
