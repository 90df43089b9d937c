"""The README.md of token shards on Hugging Face.

Front matter that `datasets` and the Hub's viewer read, and a page that says which tokenizer made the tokens and how to
decode them.
"""

import json
from typing import NamedTuple

from parti_data.figures import say_count
from parti_data.token_shard import ShardMetadata

FOLDER, SPLIT = "data", "train"
"""Where the shards lie, and what their split is called."""
_LARGEST_SIZES = ((1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M"))
_LARGER_SIZES = ((100_000_000, "100M"), (1_000_000_000, "1B"), (10_000_000_000, "10B"), (100_000_000_000, "100B"))
_COLUMNS = (
    ("key", "the first 128 bits, in hex, of the SHA-256 of the image's original bytes, or as it was imported"),
    ("view", "the number of the view: the images are cut in one or several ways"),
    ("box", "x, y, width and height of the view, in pixels of the upright original"),
    ("flipped", "whether the view is mirrored"),
    ("captions", "all captions of the image"),
    ("text_ids", "the ids of each caption, of the text tokenizer below"),
    ("image_tokens", "the tokens of the view, of the image tokenizer below, in raster order"),
    ("source", "where the image came from"),
    ("source_key", "what it was called there"),
)


class CardText(NamedTuple):
    """What a person says of a data set; an empty licence is left out."""

    title: str
    license: str


class ExportedShards(NamedTuple):
    """The shards that a card speaks of."""

    metadata: ShardMetadata
    num_rows: int
    arrow_bytes: int
    """In memory, as `datasets` counts them."""
    file_bytes: int
    digest: str
    """Of the manifest of the directory that was exported."""


def write_card(text: CardText, shards: ExportedShards) -> str:
    """Return the README.md."""
    parts = [_front_matter(text, shards), _about(text, shards), _columns(), _tokenizers(shards), _reading(shards)]
    return "\n".join(parts)


def size_category(num_rows: int) -> str:
    """Return how the Hub calls so many rows."""
    before = ""
    for limit, name in (*_LARGEST_SIZES, *_LARGER_SIZES):
        if num_rows < limit:
            return f"{before}<n<{name}" if before else f"n<{name}"
        before = name
    return f"n>{before}"


def feature_lines(metadata: ShardMetadata) -> list[str]:
    """Return the types of the columns, in the words of `datasets`, which its versions 3 to 5 read alike."""
    tokens, text_ids = metadata.token_type.__name__, metadata.text_type.__name__
    types = {
        "key": ["dtype: string"],
        "view": ["dtype: uint8"],
        "box": ["sequence: int32", "length: 4"],
        "flipped": ["dtype: bool"],
        "captions": ["sequence: string"],
        "text_ids": ["sequence:", f"  sequence: {text_ids}"],
        "image_tokens": [f"sequence: {tokens}", f"length: {metadata.num_tokens}"],
        "source": ["dtype: string"],
        "source_key": ["dtype: string"],
    }
    return [line for name, kind in types.items() for line in (f"- name: {name}", *(f"  {part}" for part in kind))]


def _front_matter(text: CardText, shards: ExportedShards) -> str:
    lines = [
        "---",
        f"pretty_name: {json.dumps(text.title, ensure_ascii=False)}",
        *([f"license: {json.dumps(text.license, ensure_ascii=False)}"] if text.license else []),
        "task_categories:",
        "- text-to-image",
        "size_categories:",
        f"- {size_category(shards.num_rows)}",
        "tags:",
        "- image-tokens",
        "configs:",
        "- config_name: default",
        "  data_files:",
        f"  - split: {SPLIT}",
        f"    path: {FOLDER}/{SPLIT}-*",
        "dataset_info:",
        "  config_name: default",
        "  features:",
        *(f"  {line}" for line in feature_lines(shards.metadata)),
        "  splits:",
        f"  - name: {SPLIT}",
        f"    num_bytes: {shards.arrow_bytes}",
        f"    num_examples: {shards.num_rows}",
        f"  download_size: {shards.file_bytes}",
        f"  dataset_size: {shards.arrow_bytes}",
        "---",
        "",
    ]
    return "\n".join(lines)


def _about(text: CardText, shards: ExportedShards) -> str:
    return f"""# {_plain(text.title)}
{say_count(shards.num_rows)} views of images, each as {say_count(shards.metadata.num_tokens)} tokens of a codebook of \
{say_count(shards.metadata.codebook_size)}, with their captions. No pixels: a tokenizer makes them of the tokens.
"""


def _columns() -> str:
    return _table("Columns", ("column", "what"), [(f"`{name}`", what) for name, what in _COLUMNS])


def _tokenizers(shards: ExportedShards) -> str:
    made = shards.metadata
    side, quantizers = made.grid_side, made.num_quantizers
    positions = f"{side} x {side}" + (f", {quantizers} tokens a position, which stand together" * (quantizers > 1))
    rows = [
        ("image tokenizer", made.image_tokenizer_name),
        ("its fingerprint", f"`{_plain(made.image_tokenizer)}`"),
        ("codebook", f"{say_count(made.codebook_size)} codes"),
        ("grid", positions),
        ("image side", f"{made.image_side} px"),
        ("resize recipe", f"{made.resize_recipe}, {made.resize_library}"),
        ("encoder", f"{made.precision}, {made.backend} on {made.device}{', compiled' * made.compile}"),
        ("text tokenizer", f"{say_count(made.text_vocabulary_size)} ids"),
        ("its fingerprint", f"`{_plain(made.text_tokenizer)}`"),
        ("config", f"`{_plain(made.config_digest)}`"),
        ("input", f"`{_plain(made.input_digest)}`"),
        ("manifest of the token shards", f"`{shards.digest}`"),
    ]
    return (
        _table("The tokenizer that made the tokens", ("what", "value"), rows)
        + """
A fingerprint is a SHA-256 over all that decides a token: the weights, the architecture and the preprocessing. The \
same is in the footer of every file, under the key `parti`.
"""
    )


def _reading(shards: ExportedShards) -> str:
    return f"""## Reading and decoding
```python
from datasets import load_dataset
from model.tokenizers import load_tokenizer  # of parti

rows = load_dataset("PATH", split="{SPLIT}").with_format("numpy")
tokenizer = load_tokenizer("TOKENIZER")  # the file with this fingerprint, or as its project publishes it
assert tokenizer.fingerprint == {json.dumps(shards.metadata.image_tokenizer)}
images = tokenizer.decode(rows[:8]["image_tokens"])  # uint8 (8, {shards.metadata.image_side}, \
{shards.metadata.image_side}, 3)
```
Every file is a token shard as `parti tokenize` writes it, byte for byte: plain Parquet that any reader opens.
"""


def _table(title: str, heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"## {title}", f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_plain(value)} |" for name, value in rows), ""])


def _plain(text: str) -> str:
    """Return text of strangers as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
