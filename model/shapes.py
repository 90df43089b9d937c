"""Architectures from a config's table: what is unknown or does not fit is refused before anything is begun."""

import difflib
from dataclasses import fields
from typing import Any, TypeVar

from parti_data.errors import ConfigError

S = TypeVar("S")


def make_shape(kind: type[S], table: dict[str, int | float], **given: Any) -> S:
    """Return the dataclass `kind` with the table's values; `given` is what the data decide; raises ConfigError."""
    allowed = {field.name: field.type for field in fields(kind) if field.name not in given}  # type: ignore[arg-type]
    for name, value in table.items():
        if name not in allowed:
            nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0)[0]
            raise ConfigError(f"architecture: expected a known key, found {name!r}; did you mean {nearest!r}?")
        if allowed[name] is int and not isinstance(value, int):
            raise ConfigError(f"architecture.{name}: expected a whole number, found {value!r}; change it")
    return kind(**table, **given)


def refuse_remainder(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ConfigError unless the value is a multiple of the divisor, and both are positive."""
    if value < 1 or divisor < 1 or value % divisor:
        raise ConfigError(
            f"architecture.{name}: expected a multiple of {divisor_name} = {divisor}, found {value}; change one of them"
        )
