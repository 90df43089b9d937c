"""How many tokenized images were taken and why others were dropped, and whether that may be."""

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, Field

from parti_data.errors import SourceError
from parti_data.token_sources.token_grid import TokenGrid
from parti_data.token_sources.tokenized import OUTSIDE_CODEBOOK, WRONG_SHAPE, Fault

_MOST_SHAPES = 16
_SHOWN_CHARS = 200


class ImportCounts(BaseModel):
    """What became of some images."""

    images: int = 0
    """Those taken, in `rows` rows: one a view."""
    rows: int = 0
    dropped: Counter[str] = Field(default_factory=Counter)
    """By reason."""
    examples: dict[str, str] = Field(default_factory=dict)
    """The first image dropped for each reason."""
    shapes: Counter[str] = Field(default_factory=Counter)
    """Of tokens that were dropped for it: the first few that were met."""

    @property
    def read(self) -> int:
        """Images taken or dropped."""
        return self.images + self.dropped.total()

    def take(self, num_rows: int) -> None:
        """Count an image that was taken."""
        self.images += 1
        self.rows += num_rows

    def drop(self, where: str, fault: Fault) -> None:
        """Count an image that was dropped."""
        self.dropped[fault.reason] += 1
        self.examples.setdefault(fault.reason, f"{where}: {fault.detail}"[:_SHOWN_CHARS])
        if fault.reason == WRONG_SHAPE and (len(self.shapes) < _MOST_SHAPES or fault.detail in self.shapes):
            self.shapes[fault.detail] += 1

    def refuse(self, path: str, allowed: float, grid: TokenGrid) -> None:
        """Raise SourceError where more than a share of all images was dropped, and say what that was most for."""
        if self.dropped.total() <= allowed * self.read:
            return
        ((reason, _), *_) = self.dropped.most_common(1)
        if reason == WRONG_SHAPE and len(self.shapes) + bool(self.images) > 1:
            shapes = ", ".join(
                f"{name.rpartition('shape ')[2]} {number}" for name, number in self.shapes.most_common(3)
            )
            raise SourceError(
                f"{path}: expected images of one grid, {grid.num_tokens} tokens each, found {self.images} such, and "
                f"shapes {shapes}; shards hold one grid, so import the images of each into a directory of their own"
            )
        reasons = ", ".join(f"{name} {number}" for name, number in self.dropped.most_common(3))
        raise SourceError(
            f"{path}: expected at most {allowed:.0%} of images dropped, found {self.dropped.total()} of {self.read} "
            f"({reasons}; such as {self.examples[reason]}); {self._remedy(reason, grid)}"
        )

    def _remedy(self, reason: str, grid: TokenGrid) -> str:
        if reason == WRONG_SHAPE:
            return f"a view should have {grid.num_tokens} tokens, so look which tokenizer made them"
        if reason == OUTSIDE_CODEBOOK:
            return f"codes should be below {grid.codebook_size}, so look which tokenizer made them"
        return "mend the source, say otherwise how it is read, or raise max_dropped_fraction"


def sum_counts(parts: Iterable[ImportCounts]) -> ImportCounts:
    """Return the counts of all parts; examples are those of the first part that has one."""
    total = ImportCounts()
    for part in parts:
        total.images += part.images
        total.rows += part.rows
        total.dropped.update(part.dropped)
        total.shapes.update(part.shapes)
        total.examples = part.examples | total.examples
    return total
