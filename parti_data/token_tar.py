"""Token rows as members of a WebDataset tar, three a row: KEY.npy, KEY.txt and KEY.json; KEY-2.npy of view 2.

Imported images with equal tokens have equal keys: what comes again in a tar is KEY_1.npy, KEY_2.npy and so on.
The .npy has the tokens, uint16 or uint32, as a grid (side, side) in raster order, or (I,) where a position has several;
the .txt the first caption; the .json all that a token shard has beside the tokens.
"""

import io
import json
import re
import tarfile
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from parti_data.errors import ShardError
from parti_data.tar_members import add_member
from parti_data.token_shard import ShardMetadata, token_matrix

_TOKENS = "image_tokens"
_KEY = re.compile("[0-9A-Za-z]{1,64}")
"""What names members that can be unpacked anywhere."""


class TokenTar:
    """An open tar that token rows of one making are appended to."""

    def __init__(self, archive: tarfile.TarFile, metadata: ShardMetadata, source: str):
        self._archive, self._shape, self._source = archive, token_shape(metadata), source
        self._times: Counter[str] = Counter()

    def append(self, table: pa.Table) -> None:
        """Append the rows of a token shard's table; raises ShardError for a key that cannot name members."""
        tokens = token_matrix(table)
        grids = tokens.astype(tokens.dtype.newbyteorder("<"), copy=False).reshape(-1, *self._shape)
        header = npy_header(grids)
        for row, grid in zip(table.drop_columns([_TOKENS]).to_pylist(), grids, strict=True):
            name = self._new_name(row["key"], row["view"])
            add_member(self._archive, f"{name}.npy", header + grid.tobytes())
            add_member(self._archive, f"{name}.txt", (row["captions"][0] if row["captions"] else "").encode())
            add_member(self._archive, f"{name}.json", _to_json(row))

    def _new_name(self, key: str, view: int) -> str:
        if not _KEY.fullmatch(key):
            raise ShardError(
                f"{self._source}: expected keys of at most 64 letters and digits, which name members, found "
                f"{key[:80]!r}; export it to huggingface"
            )
        name = f"{key}-{view}" if view else key
        self._times[name] += 1
        return name if self._times[name] == 1 else f"{name}_{self._times[name] - 1}"


def token_shape(metadata: ShardMetadata) -> tuple[int, ...]:
    """Return the shape of a row's tokens."""
    side = metadata.grid_side
    return (side, side) if metadata.num_quantizers == 1 else (metadata.num_tokens,)


def npy_header(grids: np.ndarray) -> bytes:
    """Return what stands before the bytes of one of the arrays in a .npy file."""
    header = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(grids.dtype), "fortran_order": False, "shape": grids.shape[1:]}
    np.lib.format.write_array_header_1_0(header, layout)
    return header.getvalue()


def _to_json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True, ensure_ascii=False).encode()
