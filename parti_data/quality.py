"""Whether tokens still show their pictures: what is measured of token rows, and where a run has to stop.

Three things that go wrong without any error: pictures that come back as others (another tokenizer, channels in another
order, another range of pixels), codes that are hardly used, and rows that all have the same tokens.
"""

import hashlib
from collections import Counter
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, NonNegativeFloat, ValidationError

from parti_data.config import StrictModel
from parti_data.errors import ShardError
from parti_data.figures import say_share
from parti_data.manifest import Manifest, ShardRecord
from parti_data.token_shard import read_metadata, read_row_group, token_matrix

Share = Annotated[float, Field(ge=0, le=1)]
MIXUP_DB = 1.0
"""So much better must pictures come out in another order of channels or range of pixels to say that one is wrong. Right
tokenizers lose 2 dB and more by either."""
MOST_SAMPLED = 256
"""So many fit on a contact sheet that can be read again."""
SHEET = "quality.png"
"""The contact sheet that stays in a finished directory."""
_EXACT_DB = 99.0
"""Said of pictures that come back as they were."""


class QualityFloors(StrictModel):
    """What tokens must be good for. Nothing of it changes a token, so it may change from run to run."""

    sample: int = Field(default=16, ge=0, le=MOST_SAMPLED)
    """Pictures of each slice that are decoded again: some of its first rows, chosen by hash. None for a tokenizer
    without a decoder."""
    min_psnr_db: NonNegativeFloat = 12.0
    """Of the sample against the pictures themselves; 12 dB is what plain grey has on photos. With 0 the sample is
    measured and not judged."""
    refuse_mixups: bool = True
    """Stop too where the sample fits better with red and blue swapped, or comes out better in another pixel range: what
    dalle-mini feeds taming's weights would be refused."""
    min_code_usage: Share = 0.0
    """Share of the codebook that each slice must use."""
    max_equal_rows: Share = 0.5
    """Share of a slice's rows that may have the tokens of another image of it."""

    @property
    def candidates(self) -> int:
        """First rows of a slice among which the sample is chosen."""
        return 4 * self.sample


class TokenQuality(BaseModel):
    """What the tokens of a slice or a shard tell by themselves."""

    rows: int
    code_usage: float
    """Share of the codebook that occurs."""
    equal_rows: float
    """Share of rows that have the tokens of another image; views of one image may be equal."""


class SampledPicture(BaseModel):
    """A view of an image that was decoded again."""

    key: str
    view: int
    psnr_db: float


class PrecisionQuality(BaseModel):
    """What another way to run the encoder changes of the first pictures' tokens, against float32, torch, a CPU."""

    differing_tokens: float
    """Share of tokens."""
    differing_rows: float
    """Share of pictures with such a token."""


class SliceQuality(TokenQuality):
    """What is measured of a slice."""

    number: int
    psnr_db: float | None
    """Of the mean squared error of all the sample's pixels; None without a picture to compare."""
    mixup: str
    """What seems to be mixed up, or nothing."""
    sample: list[SampledPicture] = Field(default_factory=list)
    precision: PrecisionQuality | None = None
    """Of the first slice, where its encoder does not run as the record does."""


class RunQuality(BaseModel):
    """What a manifest keeps under `quality`, and the name of the contact sheet of the first slice."""

    floors: QualityFloors
    sheet: ShardRecord
    sample: list[SampledPicture]
    """The pictures on the sheet, in order."""
    precision: PrecisionQuality | None
    slices: list[SliceQuality]
    shards: dict[str, TokenQuality]

    def details(self) -> dict[str, Any]:
        """Return it as plain JSON values; of the samples only the first slice's is kept."""
        return self.model_dump(mode="json", exclude={"slices": {"__all__": {"sample", "precision"}}})

    def figures(self) -> list[tuple[str, str]]:
        """Return the figures that sum up the run, each with its name."""
        found = [one.psnr_db for one in self.slices if one.psnr_db is not None]
        figures = []
        if found:
            spread = f"{min(found):.1f} to " if len(found) > 1 else ""
            figures.append(("PSNR of the samples", f"{spread}{max(found):.1f} dB"))
        if self.shards:
            usage = min(one.code_usage for one in self.shards.values())
            equal = max(one.equal_rows for one in self.shards.values())
            figures.append(("codes in use (least of a shard)", say_share(usage)))
            figures.append(("rows with equal tokens (most of a shard)", say_share(equal)))
        if self.precision:
            figures.append(("tokens unlike float32", say_share(self.precision.differing_tokens)))
        return figures


def read_run_quality(directory: str, manifest: Manifest) -> RunQuality | None:
    """Return what a manifest tells of its tokens, None where it tells nothing; raises ShardError."""
    if "quality" not in manifest.details:
        return None
    try:
        return RunQuality.model_validate(manifest.details["quality"])
    except ValidationError as error:
        raise ShardError(
            f"{directory}: expected a manifest that tells the quality of its tokens, found "
            f"{error.errors()[0]['msg']}; run tokenize into a new directory"
        ) from None


class TokenMeter:
    """Measures token rows as they come."""

    def __init__(self, codebook_size: int):
        self._is_used = np.zeros(codebook_size, bool)
        self._rows: Counter[bytes] = Counter()
        self._keys: dict[bytes, str] = {}
        self._shared: set[bytes] = set()

    def add(self, keys: list[str], tokens: np.ndarray) -> None:
        """Take rows of tokens (B, I), of one integer type throughout, with the keys of their images."""
        self._is_used[tokens.ravel()] = True
        for key, row in zip(keys, tokens, strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            self._rows[digest] += 1
            if self._keys.setdefault(digest, key) != key:
                self._shared.add(digest)

    def measured(self) -> TokenQuality:
        """Return what was measured of all rows so far."""
        rows = self._rows.total()
        equal = sum(self._rows[digest] for digest in self._shared)
        usage = float(self._is_used.mean())
        return TokenQuality(rows=rows, code_usage=round(usage, 4), equal_rows=round(equal / max(rows, 1), 4))


def measure_shard(path: str) -> TokenQuality:
    """Return the codes in use and the equal rows of a token shard."""
    metadata, groups = read_metadata(path)
    meter = TokenMeter(metadata.codebook_size)
    for group in range(len(groups)):
        table = read_row_group(path, group, ["key", "image_tokens"])
        meter.add(table.column("key").to_pylist(), token_matrix(table))
    return meter.measured()


def psnr_db(pictures: np.ndarray, others: np.ndarray) -> float:
    """Return the PSNR in dB, at most 99, of the mean squared error between uint8 pictures of one shape."""
    return to_db(mean_square(pictures, others))


def mean_square(pictures: np.ndarray, others: np.ndarray) -> float:
    """Return the mean squared error between uint8 pictures of one shape, of pixels from 0 to 1."""
    return float(np.square(pictures.astype(np.float64) - others).mean()) / 255**2


def to_db(error: float) -> float:
    """Return the PSNR, at most 99, of a mean squared error."""
    return round(min(-10 * np.log10(error), _EXACT_DB), 2) if error else _EXACT_DB


def swapped(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (..., 3) with red and blue swapped."""
    return pictures[..., ::-1]


def find_swap(originals: np.ndarray, decoded: np.ndarray) -> str:
    """Say so where decoded pictures fit their originals better with red and blue swapped, else nothing."""
    better, found = psnr_db(originals, swapped(decoded)), psnr_db(originals, decoded)
    return f"red and blue look swapped ({better:g} dB with them swapped back)" if better >= found + MIXUP_DB else ""


def say_low_psnr(found_db: float, floors: QualityFloors, mixup: str) -> str:
    """Return what is wrong with a sample that came back so, nothing where it may pass.

    `mixup` says what seems to be mixed up, or nothing.
    """
    because = f"; {mixup}" if mixup else ""
    if found_db < floors.min_psnr_db:
        return f"expected pictures to come back at {floors.min_psnr_db:g} dB (quality.min_psnr_db), found " + (
            f"{found_db:g} dB{because}"
        )
    if mixup and floors.refuse_mixups and floors.min_psnr_db:
        return f"expected pictures to come back as they are (quality.refuse_mixups), found {found_db:g} dB{because}"
    return ""


def say_low_tokens(found: TokenQuality, floors: QualityFloors) -> str:
    """Return what is wrong with a slice's tokens, nothing where they may pass."""
    if found.code_usage < floors.min_code_usage:
        return (
            f"expected {floors.min_code_usage:.2%} of the codes in use (quality.min_code_usage), found "
            f"{found.code_usage:.2%}"
        )
    if found.equal_rows > floors.max_equal_rows:
        return (
            f"expected at most {floors.max_equal_rows:.2%} of the rows with another image's tokens "
            f"(quality.max_equal_rows), found {found.equal_rows:.2%}"
        )
    return ""
