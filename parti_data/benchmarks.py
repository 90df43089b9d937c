"""Evaluation pictures and prompts that no kept pair may hold: read into hashes, and looked for in measured rows.

A benchmark's pictures enter as files, folders or tars, its prompts as a table, JSON or lines of text; what leaves is
which row holds one of them. Pictures count as found within a distance of perceptual hashes, prompts where a caption is
equal but for case and white space.
"""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from parti_data.captions import clean_caption
from parti_data.config import StrictModel
from parti_data.errors import SourceError
from parti_data.images import Drop, ImageLimits, inspect
from parti_data.ledger import LedgerRow
from parti_data.perceptual_hash import (
    LEAST_SIDE_PX,
    hamming_distances,
    mirrored_hash,
    pack_hashes,
    perceptual_hash,
    rows_a_block,
)  # fmt: skip
from parti_data.rules import caption_hash
from parti_data.sources.tar_headers import BoundedTarFile
from parti_data.storage import digest_json, expand, file_size, is_file, join, list_directory, open_file, read_bytes

BENCHMARK_IMAGE, BENCHMARK_CAPTION = "benchmark_image", "benchmark_caption"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CAPTION_COLUMNS = ("Prompt", "prompt", "caption", "text")
"""What the column of prompts may be called; the first that is there counts."""
MAX_CAPTIONS_BYTES = 256 << 20


class Benchmark(StrictModel):
    """Evaluation pictures, prompts or both."""

    name: str
    images: str = ""
    """A folder (of which subfolders are not looked into), a glob or a tar of pictures."""
    captions: str = ""
    """A .tsv or .csv with a column Prompt or caption, COCO's captions .json, a .jsonl, or a .txt of one a line."""
    max_distance: int = Field(default=15, ge=0, le=64)
    """Bits of the perceptual hash, of 256, in which a picture may differ from the benchmark's."""
    mirrored: bool = False
    """Whether the mirror image counts too."""

    @model_validator(mode="after")
    def _refuse_nothing(self) -> Self:
        if not (self.images or self.captions):
            raise ValueError(f"benchmark {self.name!r} should have images or captions, found neither; give a path")
        return self


@dataclass(frozen=True)
class ImageHashes:
    """The pictures of one benchmark."""

    name: str
    max_distance: int
    items: list[str]
    hashes: list[str]

    def find(self, hashes: list[str]) -> dict[int, str]:
        """Return what to say of each of the hashes, by its place, that is within the distance of a picture."""
        packed, wanted = pack_hashes(hashes), pack_hashes(self.hashes)
        found: dict[int, str] = {}
        step = rows_a_block(len(self.hashes))
        for start in range(0, len(hashes), step):
            distances = hamming_distances(packed[start : start + step], wanted)
            nearest = distances.argmin(1)  # of equal ones the first
            for row in np.flatnonzero(distances[np.arange(len(nearest)), nearest] <= self.max_distance).tolist():
                item, distance = self.items[nearest[row]], distances[row, nearest[row]]
                found[start + row] = f"{self.name}: {item}, {distance} bits of 256 differ"
        return found


@dataclass(frozen=True)
class BenchmarkHashes:
    """What is looked for: the pictures of each benchmark, and the prompts of all."""

    images: list[ImageHashes] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    """By the hash of a prompt, which it is."""

    def find(self, rows: list[LedgerRow]) -> dict[int, Drop]:
        """Return why rows are dropped, by their place: their picture or one of their captions is a benchmark's."""
        found: dict[int, Drop] = {}
        for number, row in enumerate(rows):
            said = (self.captions.get(caption_hash(caption)) for caption in row.captions if self.captions)
            if item := next((item for item in said if item), None):
                found[number] = Drop(BENCHMARK_CAPTION, item)
        places = [number for number, row in enumerate(rows) if row.perceptual_hash]
        hashes = [rows[number].perceptual_hash for number in places]
        for benchmark in reversed(self.images):  # the first that is configured is named
            for place, detail in benchmark.find(hashes).items():
                found[places[place]] = Drop(BENCHMARK_IMAGE, detail)
        return found

    def digest(self) -> str:
        """Return a digest that changes with any picture or prompt."""
        images = [[one.name, one.items, one.hashes] for one in self.images]
        return digest_json({"images": images, "captions": self.captions})


def read_benchmarks(benchmarks: Iterable[Benchmark], limits: ImageLimits) -> BenchmarkHashes:
    """Return the hashes of all pictures and prompts; raises SourceError where they cannot be read."""
    images: list[ImageHashes] = []
    captions: dict[str, str] = {}
    for benchmark in benchmarks:
        if benchmark.images:
            images.append(_read_images(benchmark, limits))
        if benchmark.captions:
            for number, caption in enumerate(read_captions(benchmark.captions), 1):
                if cleaned := clean_caption(caption):
                    captions.setdefault(caption_hash(cleaned), f"{benchmark.name}: prompt {number}")
    return BenchmarkHashes(images, captions)


def _read_images(benchmark: Benchmark, limits: ImageLimits) -> ImageHashes:
    items: list[str] = []
    hashes: list[str] = []
    for item, image in _open_images(benchmark.images, limits):
        picture = inspect(image, limits, LEAST_SIDE_PX).picture
        if isinstance(picture, Drop):
            raise SourceError(
                f"{benchmark.images}: expected pictures that decode, found {item} ({picture.reason} {picture.detail}); "
                "mend or remove it"
            )
        text = perceptual_hash(picture)
        for one in [text, mirrored_hash(text)] if benchmark.mirrored else [text]:
            items.append(item)
            hashes.append(one)
    if not items:
        raise SourceError(f"{benchmark.images}: expected pictures, found none; check images of {benchmark.name}")
    return ImageHashes(benchmark.name, benchmark.max_distance, items, hashes)


def _open_images(pattern: str, limits: ImageLimits) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each picture, in order of path."""
    for path in expand(pattern):
        for file in [path] if is_file(path) else [join(path, name) for name in list_directory(path)]:
            if file.endswith(".tar"):
                yield from _read_tar(file, limits.max_bytes)
            elif file.lower().endswith(IMAGE_SUFFIXES):
                _refuse_large(file, limits.max_bytes)
                yield file.rpartition("/")[2], read_bytes(file)


def _read_tar(path: str, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield every picture of a tar, whatever stands beside it."""
    try:
        with open_file(path) as file, BoundedTarFile(fileobj=file, mode="r") as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(IMAGE_SUFFIXES):
                    if member.size > max_bytes:
                        raise SourceError(
                            f"{path}: expected at most {max_bytes} bytes, found {member.size} in {member.name!r}; "
                            "split or remove it"
                        )
                    content = tar.extractfile(member)
                    yield member.name, content.read() if content else b""
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise SourceError(f"{path}: expected a whole tar, found {error}; download it again, or remove it") from None


def read_captions(path: str) -> list[str]:
    """Return the prompts of a file, by its suffix; raises SourceError where it does not hold any."""
    if not is_file(path):
        raise SourceError(f"{path}: expected a file of captions, found none; check the path")
    _refuse_large(path, MAX_CAPTIONS_BYTES)
    try:
        captions = list(_parse_captions(path.rpartition(".")[2].lower(), read_bytes(path).decode("utf-8-sig")))
    except (ValueError, RecursionError, csv.Error) as error:  # also what is not UTF-8 or not JSON
        raise SourceError(f"{path}: expected captions, found {error}; check the file and its suffix") from None
    if not any(caption.strip() for caption in captions):
        raise SourceError(f"{path}: expected captions, found none; check the file and its suffix")
    return captions


def _parse_captions(suffix: str, text: str) -> Iterator[str]:
    """Yield the captions of a file's text; raises ValueError."""
    if suffix == "txt":
        yield from text.split("\n")  # and not at what else Python takes for the end of a line
    elif suffix in ("tsv", "csv"):
        quoting = csv.QUOTE_NONE if suffix == "tsv" else csv.QUOTE_MINIMAL
        rows = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if suffix == "tsv" else ",", quoting=quoting
        )
        yield from (_caption_of(row) for row in rows)
    elif suffix == "jsonl":
        yield from (_caption_of(json.loads(line)) for line in text.split("\n") if line.strip())
    elif suffix == "json":
        content = json.loads(text)
        annotations = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(annotations, list):
            raise ValueError("no list of annotations")
        yield from (_caption_of(annotation) for annotation in annotations)
    else:
        raise ValueError(f"a file that is no .tsv, .csv, .json, .jsonl or .txt but .{suffix}")


def _caption_of(record: Any) -> str:
    names = [name for name in CAPTION_COLUMNS if isinstance(record, dict) and isinstance(record.get(name), str)]
    if not names:
        raise ValueError(f"a row without a text in any of {', '.join(CAPTION_COLUMNS)}")
    return record[names[0]]


def _refuse_large(path: str, max_bytes: int) -> None:
    if (found := file_size(path)) > max_bytes:
        raise SourceError(f"{path}: expected at most {max_bytes} bytes, found {found}; split or remove it")
