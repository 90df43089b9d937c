"""The columns of a table of strangers: which of them hold captions, and what of the others goes along with a pair."""

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parti_data.errors import SourceError

MAX_TEXT_BYTES = 1 << 20
"""Captions are cut here; texts of other columns too."""
USUAL_CAPTION_COLUMNS = ("text", "caption")
"""Where a config names no caption column, the first of these that is there."""
_SHOWN_COLUMNS = 20


def choose_caption_columns(where: str, wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return the columns that hold captions; raises SourceError where one of them is not there."""
    if wanted:
        for name in wanted:
            require_column(where, name, found, "caption_columns")
        return list(wanted)
    usual = next((name for name in USUAL_CAPTION_COLUMNS if name in found), USUAL_CAPTION_COLUMNS[0])
    require_column(where, usual, found, "caption_columns")
    return [usual]


def require_column(where: str, name: str, found: Sequence[str], option: str) -> None:
    """Raise SourceError where a column is not there, or is there twice."""
    if name not in found:
        nearest = difflib.get_close_matches(name, found, n=1, cutoff=0)
        hint = f"did you mean {nearest[0]!r}? set source.{option}" if nearest else "check the file"
        raise SourceError(f"{where}: expected a column {name!r}, found {_show(found)}; {hint}")
    if found.count(name) > 1:
        raise SourceError(
            f"{where}: expected one column {name!r}, found {found.count(name)} of that name; rename all but one"
        )


def single_columns(found: Iterable[str]) -> list[str]:
    """Return the columns whose name no other column has, in order."""
    return [name for name, count in Counter(found).items() if count == 1]


def _show(found: Sequence[str]) -> str:
    names = [repr(name) for name in found[:_SHOWN_COLUMNS]]
    return (
        ", ".join([*names, f"{len(found) - _SHOWN_COLUMNS} more"] if len(found) > _SHOWN_COLUMNS else names) or "none"
    )


def to_captions(values: Iterable[Any]) -> list[str]:
    """Return the texts among the values of a row's caption columns, those of lists one by one."""
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    return [to_text(text) for text in texts if isinstance(text, str)]


def to_text(text: str | bytes) -> str:
    """Return text that can be written as UTF-8, at most MAX_TEXT_BYTES long; what is no text in it is replaced."""
    content = text if isinstance(text, bytes) else text[:MAX_TEXT_BYTES].encode("utf-8", "replace")
    return content[:MAX_TEXT_BYTES].decode("utf-8", "replace")


def to_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts, booleans and finite numbers among a row's values."""
    return {to_text(name): _to_field(value) for name, value in values.items() if _is_field(value)}


def _is_field(value: Any) -> bool:
    if isinstance(value, int | float):
        try:
            return math.isfinite(value)
        except OverflowError:  # an integer beyond every float
            return False
    return isinstance(value, str)


def _to_field(value: Any) -> Any:
    return to_text(value) if isinstance(value, str) else value
