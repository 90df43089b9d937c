"""What a kept pair takes in later stages: in a tar, and in a token shard."""

import tarfile
from collections.abc import Sequence

import numpy as np

from parti_data.ledger import LedgerRow, to_json
from parti_data.storage import file_size
from parti_data.token_shard import ShardMetadata, TokenRow, to_table, write_token_shard
from pipelines.plan.scratch import marginal

NUM_TOKENS, CODEBOOK_SIZE = 256, 8192
"""Of the image tokenizer that is assumed where there is none yet."""
_CHARS_A_PIECE = 4
"""Of English text in SentencePiece of 16,000 pieces, about."""


def tar_pair_bytes(rows: Sequence[LedgerRow]) -> float:
    """Return the mean bytes of a pair in a tar: image, caption and json, each with its header and padding."""
    return sum(
        _member_bytes(row.size)
        + _member_bytes(len(row.captions[0].encode()) if row.captions else 0)
        + _member_bytes(len(to_json(row).encode()))
        for row in rows
    ) / max(len(rows), 1)


def _member_bytes(size: int) -> int:
    return tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))


def token_row_bytes(rows: Sequence[LedgerRow]) -> float:
    """Return the mean bytes of a row of a token shard, written with codes that are equally likely: the worst case."""
    if not rows:
        return 0.0
    generator = np.random.default_rng(0)
    metadata = ShardMetadata(
        image_tokenizer="", image_tokenizer_name="", codebook_size=CODEBOOK_SIZE, grid_side=int(NUM_TOKENS**0.5),
        image_side=256, resize_recipe="", resize_library="", precision="", text_tokenizer="",
        text_vocabulary_size=16_000, config_digest="", input_digest="",
    )  # fmt: skip

    def write(path: str, count: int) -> float:
        write_token_shard(path, to_table([_token_row(row, generator) for row in rows[:count]], metadata), metadata)
        return file_size(path)

    return marginal(write, len(rows))[1]


def _token_row(row: LedgerRow, generator: np.random.Generator) -> TokenRow:
    text_ids = [
        generator.integers(16_000, size=1 + len(caption) // _CHARS_A_PIECE).tolist() for caption in row.captions
    ]
    tokens = generator.integers(CODEBOOK_SIZE, size=NUM_TOKENS)
    return TokenRow(row.key, 0, [0, 0, row.width, row.height], False, row.captions, text_ids, tokens, row.source, "")
