"""torch.save's files before 1.6: five pickles one after another, then the storages, each behind its length.

Source: torch/serialization.py, `_legacy_save` and `_legacy_load`.
"""

import os
import struct
from io import BufferedReader
from typing import Any

from model.checkpoints.stored import Contents, Malformed, read_range, shown
from model.checkpoints.torch_pickle import Storage, read_plain_pickle, read_torch_pickle
from model.checkpoints.unpickler import MAX_PICKLE_BYTES

CONTAINER = "torch legacy"
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_torch_legacy(file: BufferedReader) -> Contents:
    """Return what the file holds; raises Malformed, ValueError, OSError."""
    content = file.read(min(MAX_PICKLE_BYTES, os.fstat(file.fileno()).st_size))  # all are reserved at once
    magic, end = read_plain_pickle(content, 0)
    if magic != MAGIC:
        raise Malformed("expected what torch.save wrote, found another pickle; save the weights with torch.save")
    protocol, end = read_plain_pickle(content, end)
    if protocol != PROTOCOL:
        raise Malformed(f"expected torch's protocol {PROTOCOL}, found another; save it again with torch.save")
    system, end = read_plain_pickle(content, end)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("expected numbers in little-endian order, found others; save it again on another machine")
    pickle = read_torch_pickle(content, end)
    keys, end = read_plain_pickle(content, pickle.end)
    places = _places(file, end, keys, pickle.storages)
    return Contents(CONTAINER, pickle.value, lambda key, num_bytes: read_range(file, places[key], num_bytes))


def _places(file: BufferedReader, start: int, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Return where each storage's bytes begin."""
    names = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
    if len(names) != len(storages) or set(names) != set(storages):
        raise Malformed("expected a list of the storages, found another than its tensors name; download it again")
    places: dict[str, int] = {}
    end = os.fstat(file.fileno()).st_size
    for key in names:
        file.seek(start)
        (num,) = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))
        places[key] = start + 8
        start += 8 + storages[key].num_bytes
        if num != storages[key].num or start > end:
            raise Malformed(f"expected {storages[key].num} elements of storage {shown(key)}, found fewer or others;"
                            " download it again")  # fmt: skip
    return places
