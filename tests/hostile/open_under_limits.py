"""Open every checkpoint of a directory, each with 64 MB of memory and 2 s more than there was; print the errors."""

import sys
from pathlib import Path

from decode_under_limits import allow_a_little_more

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError


def main() -> None:
    for path in sorted(Path(sys.argv[1]).iterdir()):
        allow_a_little_more()
        try:
            open_checkpoint(str(path))
            print("opened")
        except CheckpointError as error:
            print(type(error).__name__)


main()
