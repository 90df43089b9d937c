"""The rows that a linear probe is trained and measured on: images by their tokens, with classes from captions."""

import hashlib
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from model.evaluation.probe_config import ProbeConfig
from parti_data.errors import ShardError
from parti_data.held_out import is_held_out
from parti_data.progress import show_progress
from parti_data.token_directory import TokenDirectory, read_rows
from parti_data.token_faults import token_faults
from parti_data.token_shard import token_matrix

TRAINING, VALIDATION, TEST = PARTS = "training", "validation", "test"
_LEAST_ROWS = 5
"""Of a class to train on."""
_SHOWN_CLASS = 80


class LabelledRows(NamedTuple):
    """N rows of one part."""

    keys: list[str]
    labels: list[str]
    image_tokens: np.ndarray
    """(N, I)."""


class ProbeRows(NamedTuple):
    """The three parts, the classes in order, and how many rows have none."""

    parts: dict[str, LabelledRows]
    classes: list[str]
    num_unlabelled: int

    def numbers(self, part: str) -> np.ndarray:
        """Return the number of each row's class, int64 (N,)."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return np.array([numbers[label] for label in self.parts[part].labels])


def read_probe_rows(config: ProbeConfig, tokens: TokenDirectory, others: dict[str, TokenDirectory]) -> ProbeRows:
    """Return the rows of `tokens`, of which the config's shares are validation and test rows, and of the others.

    Raises ShardError for a part without rows or that shares images with another, for fewer than two classes, and for
    a class with too few rows to train on, or with none.
    """
    read, num_unlabelled = _read(tokens, config)
    parts = _split(read, config)
    for name, directory in others.items():
        parts[name], missing = _read(directory, config)
        num_unlabelled += missing
    for name in PARTS:
        if not parts[name].keys:
            raise ShardError(
                f"{name}: expected rows with a class, found none, and {num_unlabelled} without; mend label_pattern, "
                "raise rows or the share"
            )
    _refuse_shared_images(parts, others)
    classes = sorted(set(parts[TRAINING].labels))
    _refuse_few(tokens.path, parts)
    return ProbeRows(parts, classes, num_unlabelled)


def _read(tokens: TokenDirectory, config: ProbeConfig) -> tuple[LabelledRows, int]:
    """Return the first rows of a directory that have a class, and how many of those have none."""
    count = min(config.rows, tokens.num_rows)
    keys: list[str] = []
    labels: list[str] = []
    matrices = [np.empty((0, tokens.metadata.num_tokens), tokens.metadata.token_type)]
    num_read = 0
    with show_progress("read rows", count) as bar:
        for table in read_rows(tokens, 0, count):
            for fault in token_faults(table, tokens.metadata.codebook_size):
                raise ShardError(f"{tokens.path}: {fault}; run {tokens.manifest.stage} into a new directory")
            found = _labels(table, config.label_pattern)
            is_labelled = [label is not None for label in found]
            keys += table.column("key").filter(pa.array(is_labelled)).to_pylist()
            labels += [label for label in found if label is not None]
            matrices.append(token_matrix(table)[is_labelled])
            num_read += len(table)
            bar.update(num_read, "rows")
    return LabelledRows(keys, labels, np.concatenate(matrices)), num_read - len(keys)


def _labels(table: pa.Table, pattern: str) -> list[str | None]:
    """Return the class that each row's first caption names, None where it names none."""
    captions = [found[0] if found else None for found in table.column("captions").to_pylist()]
    if not pattern:
        return captions
    matches = (re.search(pattern, caption) if caption is not None else None for caption in captions)
    return [match[1] if match else None for match in matches]


def _split(rows: LabelledRows, config: ProbeConfig) -> dict[str, LabelledRows]:
    """Return the parts of one directory's rows; all rows of a key lie in one."""
    places: dict[str, list[int]] = {name: [] for name in PARTS}
    for place, key in enumerate(rows.keys):
        places[_part_of(key, config.shares)].append(place)
    return {name: _take(rows, chosen) for name, chosen in places.items()}


def _part_of(key: str, shares: dict[str, float]) -> str:
    """Return the part of a key, by a hash of its own: by the key's own bits filter may have left images out."""
    luck, taken = hashlib.sha256(f"probe:{key}".encode()).hexdigest(), 0.0
    for name, share in shares.items():
        taken += share
        if is_held_out(luck, taken):
            return name
    return TRAINING


def _take(rows: LabelledRows, places: list[int]) -> LabelledRows:
    keys, labels = ([values[place] for place in places] for values in (rows.keys, rows.labels))
    return LabelledRows(keys, labels, rows.image_tokens[places])


def _refuse_shared_images(parts: dict[str, LabelledRows], others: dict[str, TokenDirectory]) -> None:
    """Raise ShardError where a part that is told by a directory has images of another part."""
    for name, directory in others.items():
        rest = set().union(*(rows.keys for part, rows in parts.items() if part != name))
        if shared := rest.intersection(parts[name].keys):
            raise ShardError(
                f"{directory.path}: expected images of which none is in another part of the probe's, found "
                f"{len(shared)}; name another directory for {name}, or give a share"
            )


def _refuse_few(path: str, parts: dict[str, LabelledRows]) -> None:
    """Raise ShardError for fewer than two classes, and for a class of any part with too few rows to train on."""
    counts = Counter(parts[TRAINING].labels)
    if len(counts) < 2:
        raise ShardError(f"{path}: expected at least two classes, found {len(counts)}; mend label_pattern")
    for name in sorted(set().union(*(rows.labels for rows in parts.values()))):
        if counts[name] < _LEAST_ROWS:
            raise ShardError(
                f"{path}: expected at least {_LEAST_ROWS} rows of a class to train on, found {counts[name]} of "
                f"{name[:_SHOWN_CLASS]!r}; raise rows, or set label_pattern to what names fewer classes"
            )
