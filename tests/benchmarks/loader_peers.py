"""Other libraries' loaders over the rows of token shards: `python loader_peers.py write|read PEER SHARDS FOLDER`.

Run in an environment that has them: see loader.py. Each writes the rows in its own format and gives shuffled batches of
256 as torch tensors, with text ids padded; where a library leaves it to its user how rows become a batch, `to_batch`
does it. One process, without workers.
"""

import json
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from loader_turns import endless, serve  # lies beside this file

BATCH, BUFFER = 256, 2_000
WEBDATASET_ROWS = 60_000
"""As many as it can read in a few turns; to write all takes half a minute."""
PLAIN = ("key", "view", "flipped", "source", "source_key")
Row = dict[str, Any]


class Peer(NamedTuple):
    """How a library is imported, writes rows and gives batches of them, as their number of rows."""

    load: Callable[[], Any]
    write: Callable[[list[str], Path], None]
    read: Callable[[list[str], Path], Iterator[int]]


def rows_of(shard: str) -> Iterator[Row]:
    """Yield the rows of a token shard, each with its first caption."""
    for batch in pq.ParquetFile(shard).iter_batches(1024, use_threads=False):
        tokens = batch.column("image_tokens").flatten().to_numpy().reshape(len(batch), -1)
        boxes = batch.column("box").flatten().to_numpy().reshape(len(batch), -1)
        plain = [batch.column(name).to_pylist() for name in PLAIN]
        captions, ids = batch.column("captions").to_pylist(), batch.column("text_ids").to_pylist()
        for number, values in enumerate(zip(*plain, strict=True)):
            yield dict(zip(PLAIN, values, strict=True)) | {
                "box": boxes[number],
                "caption": captions[number][0],
                "text_ids": np.array(ids[number][0], np.uint16),
                "image_tokens": tokens[number],
            }


def to_batch(rows: list[Row]) -> Row:
    """Return a batch of rows: tensors of what is numbers."""
    batch: Row = {name: [row[name] for row in rows] for name in rows[0]}
    for name in ("image_tokens", "box"):
        batch[name] = torch.from_numpy(np.stack(batch[name]))
    batch["text_ids"] = pad(batch["text_ids"])
    for name in ("view", "flipped"):
        batch[name] = torch.tensor(batch[name])
    return batch


def pad(each: list[Any]) -> torch.Tensor:
    """Return text ids as one tensor, padded with zeros to the longest."""
    padded = np.zeros((len(each), max(map(len, each))), np.uint16)
    for number, ids in enumerate(each):
        padded[number, : len(ids)] = ids
    return torch.from_numpy(padded)


def write_litdata(shards: list[str], folder: Path) -> None:
    import litdata

    litdata.optimize(rows_of, shards, str(folder), num_workers=1, chunk_bytes="64MB", verbose=False)


def read_litdata(shards: list[str], folder: Path) -> Iterator[int]:
    """Yield batches of its full shuffle; its default shuffles within 256 neighbours alone."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True, item_shuffle_window="full", batch_decode=1)
    loader = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=to_batch, shuffle=True)
    return endless(lambda: (len(batch["key"]) for batch in loader))


def _load_mosaicml() -> Any:
    """Return MosaicML Streaming, with nothing in place of two packages that it imports for what is not read here.

    Its transformers wants other versions of what is here; torchvision's wheel does not load beside torch's for CPUs.
    """
    for name in (
        "torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional",
        "transformers", "transformers.models.auto.tokenization_auto", "transformers.feature_extraction_utils",
        "transformers.tokenization_utils_base",
    ):  # fmt: skip
        sys.modules[name] = _Nothing(name)
    import streaming

    return streaming


class _Nothing(types.ModuleType):
    """A module that has a class of any name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def write_mosaicml(shards: list[str], folder: Path) -> None:
    columns = dict.fromkeys(("key", "caption", "source", "source_key"), "str") | {
        "view": "uint8", "flipped": "uint8", "box": "ndarray:int32:4",
        "text_ids": "ndarray:uint16", "image_tokens": "ndarray:uint16:1024",
    }  # fmt: skip
    with _load_mosaicml().MDSWriter(out=str(folder), columns=columns) as writer:
        for shard in shards:
            for row in rows_of(shard):
                writer.write(row)


def read_mosaicml(shards: list[str], folder: Path) -> Iterator[int]:
    streaming = _load_mosaicml()
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, shuffle_algo="py1e", batch_size=BATCH)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=to_batch)
    return endless(lambda: (len(batch["key"]) for batch in loader))


def read_hf(shards: list[str], folder: Path) -> Iterator[int]:
    """Yield what it makes of the token shards themselves, its own tensors: int64, without padding."""
    stream = _open_hf(shards).with_format("torch").shuffle(seed=0, buffer_size=BUFFER)
    return endless(lambda: (len(batch["key"]) for batch in stream.iter(BATCH)))


def read_hf_arrow(shards: list[str], folder: Path) -> Iterator[int]:
    """Yield batches that a user who knows Arrow makes of its tables."""
    stream = _open_hf(shards).with_format("arrow").shuffle(seed=0, buffer_size=BUFFER)

    def epoch() -> Iterator[int]:
        for table in stream.iter(BATCH):
            batch: Row = {name: table[name].to_pylist() for name in ("key", "captions", "source", "source_key")}
            for name, width in (("image_tokens", 1024), ("box", 4)):
                values = table[name].combine_chunks().flatten().to_numpy()
                batch[name] = torch.from_numpy(np.array(values).reshape(-1, width))
            for name in ("view", "flipped"):
                batch[name] = torch.tensor(table[name].to_numpy())
            ids = table["text_ids"].combine_chunks().flatten()
            batch["text_ids"] = pad(np.split(ids.flatten().to_numpy(), np.cumsum(ids.value_lengths().to_numpy())[:-1]))
            yield len(table)

    return endless(epoch)


def _open_hf(shards: list[str]) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("parquet", data_files=shards, split="train", streaming=True)


def write_webdataset(shards: list[str], folder: Path) -> None:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=10_000, verbose=0) as writer:
        rows = (row for shard in shards for row in rows_of(shard))
        for _, row in zip(range(WEBDATASET_ROWS), rows, strict=False):
            rest = {name: row[name] for name in ("view", "flipped", "caption", "source", "source_key")}
            writer.write({
                "__key__": row["key"],
                "tokens": row["image_tokens"].tobytes(),
                "ids": row["text_ids"].tobytes(),
                "json": json.dumps(rest | {"box": row["box"].tolist()}).encode(),
            })  # fmt: skip


def read_webdataset(shards: list[str], folder: Path) -> Iterator[int]:
    import webdataset

    def decode(members: dict[str, bytes]) -> Row:
        arrays = {"image_tokens": np.frombuffer(members["tokens"], np.uint16)}
        arrays["text_ids"] = np.frombuffer(members["ids"], np.uint16)
        return json.loads(members["json"]) | arrays | {"key": members["__key__"]}

    tars = sorted(map(str, folder.glob("*.tar")))
    stream = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(BUFFER)
    stream = stream.map(decode).batched(BATCH, collation_fn=to_batch)
    return endless(lambda: (len(batch["key"]) for batch in stream))


def write_nothing(shards: list[str], folder: Path) -> None:
    """Leave it at the token shards, which the library reads."""


PEERS = {
    "litdata": Peer(partial(import_module, "litdata"), write_litdata, read_litdata),
    "mosaicml": Peer(_load_mosaicml, write_mosaicml, read_mosaicml),
    "hf": Peer(partial(import_module, "datasets"), write_nothing, read_hf),
    "hf_arrow": Peer(partial(import_module, "datasets"), write_nothing, read_hf_arrow),
    "webdataset": Peer(partial(import_module, "webdataset"), write_webdataset, read_webdataset),
}

if __name__ == "__main__":
    task, name, place, folder = sys.argv[1:]
    shards = sorted(map(str, Path(place).glob("*.parquet")))
    PEERS[name].load()
    if task == "write":
        PEERS[name].write(shards, Path(folder))
    else:
        serve(lambda: PEERS[name].read(shards, Path(folder)))
