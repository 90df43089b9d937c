"""Which stage a config is for, by its keys."""

from typing import Any

from parti_data.config import apply_override, read_toml

STAGES = {"filter": "FilterConfig", "shard": "ShardConfig", "tokenize": "TokenizeConfig"}
"""The stages that can be planned, and what their configs are called."""


def choose_stage(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the stage that the first argument names, or else the one whose config this is, and the other arguments."""
    if arguments and arguments[0] in STAGES:
        return arguments[0], arguments[1:]
    values: dict[str, Any] = {}
    for argument in arguments:
        if argument.endswith(".toml") and "=" not in argument:
            values = read_toml(argument) | values
        else:
            apply_override(values, argument)
    if "image_tokenizer" in values:
        return "tokenize", arguments
    return "shard" if isinstance(values.get("source"), str) else "filter", arguments
