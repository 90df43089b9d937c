"""What a check of a directory finds: what is good, a line each, and what is wrong."""

from typing import NamedTuple

from parti_data.errors import ShardError
from parti_data.figures import say_count
from parti_data.manifest import MANIFEST

MOST_TOLD = 20
"""Faults that are told one by one."""


class Findings(NamedTuple):
    """Lines and faults."""

    lines: list[str]
    faults: list[str]

    def add(self, others: "Findings") -> None:
        """Take in what another check found."""
        self.lines.extend(others.lines)
        self.faults.extend(others.faults)

    def refuse_faults(self, directory: str) -> None:
        """Raise ShardError with the faults, a line each, where there are any."""
        if not self.faults:
            return
        number = f"{say_count(len(self.faults))} fault{'s' if len(self.faults) > 1 else ''}"
        told = self.faults[:MOST_TOLD]
        if len(self.faults) > MOST_TOLD:
            told.append(f"and {say_count(len(self.faults) - MOST_TOLD)} more")
        lines = "\n".join(f"  {fault}" for fault in told)
        raise ShardError(
            f"{directory}: expected what its {MANIFEST} says, found {number}; remove what is broken and {MANIFEST} to "
            f"make it again, or begin a new directory\n{lines}"
        )
