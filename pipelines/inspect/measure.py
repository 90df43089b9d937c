"""What is measured of token shards: of every footer that is looked at, and of the rows of some row groups."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from parti_data.code_counts import CodeCounts
from parti_data.progress import show_progress
from parti_data.shard_footer import Footer
from parti_data.token_shard import read_row_group, token_matrix
from pipelines.inspect.shard_set import ShardSet, checked_footer, open_shards, spread_groups

SAMPLED_GROUPS = 16
"""Row groups that are read, unless all are: some 65,000 rows, a second or two, whatever the size of the whole."""


class RowSums(NamedTuple):
    """What the rows that were read have, as counts of numbers of things."""

    text_lengths: Counter[int]
    """Ids a caption."""
    captions: Counter[int]
    """Captions a row."""
    views: Counter[int]
    """The numbers of views."""

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table."""
        self.text_lengths.update(_counted(table.column("text_ids").combine_chunks().flatten().value_lengths()))
        self.captions.update(_counted(table.column("captions").combine_chunks().value_lengths()))
        self.views.update(_counted(table.column("view")))


class Inspection(NamedTuple):
    """What token shards hold; sums, codes and rows are of the row groups that were read."""

    shards: ShardSet
    footers: list[Footer]
    """Of the files that were looked at."""
    looked_at_rows: int
    """Rows of those files."""
    groups: int
    """Row groups that were read, ..."""
    all_groups: int
    """... of so many."""
    sums: RowSums
    codes: CodeCounts
    first_rows: list[dict[str, Any]]
    spread_rows: list[dict[str, Any]]
    """As many, the first ones of each row group that was read."""

    @property
    def is_whole(self) -> bool:
        """Whether every row was read."""
        return self.groups == self.all_groups


def inspect_shards(path: str, num_rows: int, read_all: bool) -> Inspection:
    """Read footers and rows of a directory of token shards or of one file, and keep some rows; raises ShardError."""
    shards = open_shards(path)
    everything = shards.row_groups()
    groups = everything if read_all else spread_groups(everything, SAMPLED_GROUPS)
    sums, codes = RowSums(Counter(), Counter(), Counter()), CodeCounts(shards.metadata.codebook_size)
    footers: dict[str, Footer] = {}
    kept: list[list[dict[str, Any]]] = []
    with show_progress("inspect", len(groups)) as progress:
        for number, group in enumerate(groups):
            if group.path not in footers:
                footers[group.path] = checked_footer(shards, group)
            table = read_row_group(*group)
            sums.add(table)
            codes.add(group.path, token_matrix(table))
            if number < num_rows:  # more are not shown
                kept.append(table.slice(0, num_rows).to_pylist())
            progress.update(number + 1, f"{codes.rows} rows")
    looked_at = sum(sum(footer.group_rows) for footer in footers.values())
    return Inspection(
        shards, list(footers.values()), looked_at, len(groups), len(everything), sums, codes,
        kept[0] if kept else [], spread(kept, num_rows),
    )  # fmt: skip


def spread(rows_of_groups: list[list[dict[str, Any]]], num_rows: int) -> list[dict[str, Any]]:
    """Return so many rows, the first of each group, then the second of each, until there are enough."""
    longest = max(map(len, rows_of_groups), default=0)
    turns = ((place, rows) for place in range(longest) for rows in rows_of_groups)
    return [rows[place] for place, rows in turns if place < len(rows)][:num_rows]


def _counted(numbers: pa.Array | pa.ChunkedArray) -> dict[int, int]:
    values, counts = np.unique(numbers.to_numpy(), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
