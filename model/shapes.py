"""Architectures from a config's table: what is unknown or does not fit is refused before anything is begun."""

import difflib
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from parti_data.errors import ConfigError

S = TypeVar("S")


def make_shape(kind: type[S], table: dict[str, Any], **given: Any) -> S:
    """Return the dataclass `kind` with the table's values; `given` is what the data decide; raises ConfigError.

    A field that is itself a dataclass takes a table, which may name as its `preset` one of its `PRESETS` to begin with,
    or such a name alone.
    """
    return kind(**_checked(kind, table, "architecture", set(given)), **given)


def _checked(kind: Any, table: Any, where: str, given: set[str]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, found {table!r}; change it")
    types = {field.name: field.type for field in fields(kind) if field.name not in given}
    for name in table:
        if name not in types:
            nearest = difflib.get_close_matches(name, types, n=1, cutoff=0)[0]
            raise ConfigError(f"{where}: expected a known key, found {name!r}; did you mean {nearest!r}?")
    return {name: _value(types[name], value, f"{where}.{name}") for name, value in table.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, UnionType):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if is_dataclass(kind):
        return _nested(kind, value, where)
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ConfigError(f"{where}: expected one of {', '.join(get_args(kind))}, found {value!r}; change it")
    if kind is int and type(value) is not int:
        raise ConfigError(f"{where}: expected a whole number, found {value!r}; change it")
    if kind is bool and type(value) is not bool:
        raise ConfigError(f"{where}: expected true or false, found {value!r}; change it")
    if kind is float and type(value) not in (int, float):
        raise ConfigError(f"{where}: expected a number, found {value!r}; change it")
    return value


def _nested(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, dict) and "preset" in value:
        table = {name: part for name, part in value.items() if name != "preset"}
        return replace(_preset(kind, value["preset"], f"{where}.preset", ""), **_checked(kind, table, where, set()))
    if isinstance(value, dict):
        return kind(**_checked(kind, value, where, set()))
    return _preset(kind, value, where, "a table or ")


def _preset(kind: Any, name: Any, where: str, or_else: str) -> Any:
    if not isinstance(name, str) or name not in kind.PRESETS:
        raise ConfigError(f"{where}: expected {or_else}one of {', '.join(kind.PRESETS)}, found {name!r}; change it")
    return kind.PRESETS[name]


def refuse_remainder(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ConfigError unless the value is a multiple of the divisor, and both are positive."""
    if value < 1 or divisor < 1 or value % divisor:
        raise ConfigError(
            f"architecture.{name}: expected a multiple of {divisor_name} = {divisor}, found {value}; change one of them"
        )


def refuse_even(name: str, value: int) -> None:
    """Raise ConfigError unless the value is odd and positive."""
    if value < 1 or value % 2 == 0:
        raise ConfigError(f"architecture.{name}: expected an odd number from 1, found {value}; change it")


def refuse_below(name: str, value: float, least: int) -> None:
    """Raise ConfigError unless the value is large enough."""
    if value < least:
        raise ConfigError(f"architecture.{name}: expected at least {least}, found {value}; raise it")


def refuse_no_share(name: str, value: float) -> None:
    """Raise ConfigError unless the value is a share of less than all."""
    if not 0 <= value < 1:
        raise ConfigError(f"architecture.{name}: expected a share from 0 to below 1, found {value}; change it")


def refuse_outside(name: str, value: int, least: int, most: int) -> None:
    """Raise ConfigError unless the value lies between two, or is one of them."""
    if not least <= value <= most:
        raise ConfigError(f"architecture.{name}: expected {least} to {most}, found {value}; change it")
