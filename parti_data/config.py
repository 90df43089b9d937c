"""Strict configs: a TOML file, then overrides `a.b=value`, checked by a pydantic model that knows every key."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parti_data.errors import ConfigError

Place = Annotated[str, Field(min_length=1)]
"""A path or an fsspec URL, never empty, as a shell variable that is not set leaves it: its files would lie in `/`."""
_SHOWN_CHARS = 40


class StrictModel(BaseModel):
    """A frozen config: an unknown key is refused, and no value is silently converted to another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StageConfig(StrictModel):
    """What every stage is told: where its output goes. Subclasses add the rest."""

    output: Place
    """The directory that the stage fills."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that do not change a byte of the output."""
    OPENED_BY_WORKERS: ClassVar[tuple[str, ...]] = ()
    """Names of the fields, with their tables', whose files an engine's workers open, beside source and output."""

    def deciding(self) -> dict[str, Any]:
        """Return what the output's bytes depend on, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"output", *self.UNDECIDING})

    @classmethod
    def load(cls, path: str | None, overrides: list[str]) -> Self:
        """Return the config of a TOML file (none: the defaults) with `a.b=value` overrides; raises ConfigError."""
        values = read_toml(path) if path else {}
        for override in overrides:
            apply_override(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_describe(error, cls, path or "overrides")) from None


def read_toml(path: str) -> dict[str, Any]:
    """Return the contents of a TOML file; raises ConfigError."""
    try:
        return tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path}: expected a TOML file, found none ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, found {error}; mend that line") from None
    except RecursionError:
        raise ConfigError(f"{path}: expected TOML, found lists nested too deep to read; mend it") from None


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in place; the value is read as TOML, or as a plain string where it is not TOML."""
    _refuse_other_bytes(override)
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"{override}: expected key=value, found no '='; write for example output=runs/mine")
    *tables, key = name.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override}: expected a table at {table!r}, found a value; check the key")
    try:
        values[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[key] = text
    except RecursionError:
        raise ConfigError(
            f"{override[:_SHOWN_CHARS]}…: expected TOML or a text, found lists nested too deep to read; mend it"
        ) from None


def _refuse_other_bytes(override: str) -> None:
    """Raise ConfigError for an argument whose bytes were no UTF-8: Python has lone surrogates in their place."""
    shown = override.encode(errors="backslashreplace").decode()
    if shown != override:
        raise ConfigError(f"{shown}: expected UTF-8, found other bytes; write it in UTF-8")


def _describe(error: ValidationError, model: type[BaseModel], where: str) -> str:
    errors = error.errors()
    first = next(
        (one for one in errors if one["type"] == "extra_forbidden"), errors[0]
    )  # a misspelt key is also missing
    known = _known_keys(model)
    parts = [str(part) for part in first["loc"]]
    key = ".".join(part for n, part in enumerate(parts) if n == len(parts) - 1 or not _is_tag(parts[: n + 1], known))
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
        return f"{where}: expected a known key, found {key!r}; did you mean {nearest[0]!r}?"
    if first["type"] == "missing":
        return f"{where}: expected a value for {key!r}, found none; add it to the file or as {key}=…"
    found = first.get("input")
    if first["type"] == "union_tag_not_found":
        return f"{where}: expected for {key!r} a table that names its kind, found {found!r}; add {key}.kind=…"
    return f"{where}: expected for {key!r} that {_lower_first(first['msg'])}, found {found!r}; change it"


def _is_tag(parts: list[str], known: list[str]) -> bool:
    """Whether the last part only names which kind of table it is, as pydantic puts it after a union's key."""
    return parts[-1].isidentifier() and not any(
        key.split(".")[len(parts) - 1 : len(parts)] == parts[-1:] for key in known
    )


def _lower_first(message: str) -> str:
    return message[:1].lower() + message[1:]


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys that a model takes, those of every kind of a union."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _known_keys(kind, f"{prefix}{name}.")
    return keys
