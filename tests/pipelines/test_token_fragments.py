from pathlib import Path

import numpy as np

from parti_data.errors import ShardError
from parti_data.token_shard import ShardMetadata, TokenRow, to_table
from pipelines.token_fragments import read_fragment, read_note, write_fragment

METADATA = ShardMetadata(
    image_tokenizer="", image_tokenizer_name="", codebook_size=1024, grid_side=8, image_side=64, resize_recipe="",
    resize_library="", precision="", text_tokenizer="", text_vocabulary_size=128, config_digest="", input_digest="",
)  # fmt: skip


def rows(count: int) -> list[TokenRow]:
    draw = np.random.default_rng(0).integers
    texts, ids = ["a cat", "é"], [[5, 2], [6, 7, 2]]
    return [
        TokenRow(f"{n:032x}", 0, [0, 0, 8, 8], False, texts, ids, draw(0, 1024, 64), "a", f"{n}") for n in range(count)
    ]


def test_each_shard_has_its_rows_back(tmp_path):
    path, shards = str(tmp_path / "a.arrow"), [rows(40), [], rows(3)]
    write_fragment(path, shards, METADATA, "a note")
    for number, shard in enumerate(shards):
        assert read_fragment(path, number).equals(to_table(shard, METADATA), check_metadata=True)
    assert read_note(path) == "a note"


def test_a_fragment_that_was_spoiled_is_refused_or_gives_its_rows(tmp_path):
    path = tmp_path / "a.arrow"
    write_fragment(str(path), [rows(40)], METADATA, "")
    written, wanted = path.read_bytes(), to_table(rows(40), METADATA)
    refused = sum(is_refused(path, written, place, wanted) for place in range(0, len(written), 37))
    assert refused > len(written) / 37 / 2


def is_refused(path: Path, written: bytes, place: int, wanted: object) -> bool:
    """Whether the fragment is refused with one byte spoiled; otherwise that byte must not matter."""
    path.write_bytes(written[:place] + bytes([written[place] ^ 0x55]) + written[place + 1 :])
    try:
        assert read_fragment(str(path), 0).equals(wanted)
    except ShardError as error:
        assert str(error).startswith(f"{path}: expected a fragment, found ")  # noqa: PT017
        return True
    return False
