"""Captions for images that have a class: the names of the classes."""

import json
from typing import Any

from parti_data.errors import SourceError
from parti_data.storage import digest_json, is_file, read_range
from parti_data.token_sources.tokenized import NO_CAPTION, Fault

_MAX_BYTES = 4 << 20


def read_class_names(path: str) -> list[str]:
    """Return the name of each class by its number, a line each.

    A .json holds a list, or an object by numbers as ImageNet's imagenet_class_index.json does; of several names of a
    class the last is taken. Raises SourceError.
    """
    if not is_file(path):
        raise SourceError(f"{path}: expected names of classes, found none; check source.class_names")
    content = read_range(path, 0, _MAX_BYTES + 1)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        text = content.decode("utf-8-sig")
        return _names_of(json.loads(text)) if path.endswith(".json") else _lines_of(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{path}: expected names of classes, a line each or in JSON, found {error}; check source.class_names"
        ) from None


def digest_class_names(path: str) -> str:
    """Return a digest of the names, empty where there are none; raises SourceError."""
    return digest_json(read_class_names(path)) if path else ""


def _lines_of(text: str) -> list[str]:
    """Return lines that end in a line feed; a name may hold what str.splitlines takes for the end of one."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else lines


def _names_of(stated: Any) -> list[str]:
    if isinstance(stated, dict):
        numbers = [str(number) for number in range(len(stated))]
        if stated.keys() != set(numbers):
            raise ValueError(f"an object whose keys are not 0 to {len(stated) - 1}")
        stated = [stated[number] for number in numbers]
    named = [name[-1] if isinstance(name, list) and name else name for name in stated]
    names = [name for name in named if isinstance(name, str)]
    if len(names) < len(named):
        raise ValueError("something that is no text among them")
    "".join(names).encode()  # half a surrogate pair, which JSON can escape, cannot be written
    return names


def class_captions(number: Any, names: list[str]) -> list[str] | Fault | None:
    """Return the caption of a class; None without any names."""
    if not names:
        return None
    if isinstance(number, int) and 0 <= number < len(names):
        return [names[number]]
    return Fault(NO_CAPTION, f"class {str(number)[:40]} of {len(names)} names")
