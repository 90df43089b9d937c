"""A few token rows as a picture: decoded by the tokenizer that made them, their captions below."""

from typing import Any

import numpy as np
from pydantic import ValidationError

from parti_data.captions import clean_caption
from parti_data.contact_sheet import Cell, Layout, draw_contact_sheet
from parti_data.errors import ConfigError, ShardError, TokenizerError
from pipelines.inspect.shard_set import ShardSet

_LAYOUT = Layout(pictures=1, lines=4)
_NO_CAPTION = "(no caption)"


def draw_rows(shards: ShardSet, rows: list[dict[str, Any]], tokenizer: str) -> bytes:
    """Return a PNG of rows decoded by a tokenizer's file, without one by that which the manifest names.

    Raises ConfigError where no file is known, TokenizerError where it is not the one that made the tokens.
    """
    from model.tokenizers import Reading, open_tokenizer

    if not rows:
        raise ShardError(f"{shards.path}: expected rows to draw, found none; leave --picture out")
    path = tokenizer or (shards.manifest.places.get("image_tokenizer", "") if shards.manifest else "")
    if not path:
        raise ConfigError(f"--picture: expected a tokenizer for {shards.path}, found none; add --tokenizer=FILE")
    try:
        reading = Reading.model_validate(shards.manifest.details.get("tokenizer", {}) if shards.manifest else {})
    except ValidationError as error:
        raise ShardError(
            f"{shards.path}: expected a manifest that tells how its tokenizer is read, found {error.errors()[0]['msg']}"
        ) from None
    opened = open_tokenizer(path, reading)
    expected = shards.metadata.image_tokenizer
    if opened.fingerprint != expected:
        raise TokenizerError(
            f"{path}: expected the tokenizer {expected[:12]} that made the tokens, found {opened.fingerprint[:12]}; "
            "give that one as --tokenizer=FILE"
        )
    opened.refuse_without_decoder()
    pictures = opened.decode(np.array([row["image_tokens"] for row in rows], np.int64)).numpy()
    cells = [
        Cell([picture], clean_caption(row["captions"][0]) if row["captions"] else _NO_CAPTION)
        for picture, row in zip(pictures, rows, strict=True)
    ]
    title = (
        f"{len(rows)} of {shards.num_rows:,} rows, decoded by {shards.metadata.image_tokenizer_name} {expected[:12]}"
    )
    return draw_contact_sheet(cells, clean_caption(title), _LAYOUT)
