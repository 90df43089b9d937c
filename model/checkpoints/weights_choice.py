"""Which of a checkpoint's tensors are its weights, and what they are called.

A tree of mappings, stand-ins and `StoredTensor`s enters, as a container holds it: a flat state dict, a Lightning
checkpoint, several sets of weights by name, nested mappings of flax, or a pickled module. Dotted names leave.
"""

from typing import Any

from model.checkpoints.stored import Malformed, StoredTensor, shown
from model.checkpoints.unpickler import StandIn

DEFAULT_ORDER = ("ema", "model", "state_dict")
"""As LlamaGen's demo and reconstruction take them; its extract_codes takes "model"."""
_EMA = "ema"
_EMA_PREFIX = "model_ema."
"""Open-MAGVIT2's and latent diffusion's averages: behind it the weight's name without its dots."""
MAX_TENSORS = 100_000
_MAX_NODES = 300_000
_MAX_DEPTH = 64
_MAX_NAME_CHARACTERS = 1024
_MODULE = ("_parameters", "_buffers", "_modules")


def choose_weights(tree: Any, weights: str = "", prefix: str = "") -> dict[str, StoredTensor]:
    """Return the named set of weights by dotted names, of `prefix` only, without it; raises Malformed."""
    names = [weights] if weights else DEFAULT_ORDER
    chosen = next((flat for name in names if (flat := _flatten(_sets(tree).get(name)))), None)
    if chosen is None and weights == _EMA:
        chosen = _averages(choose_weights(tree), tree)
    elif chosen is None and weights:
        raise _absent(weights, tree)
    elif chosen is None:
        chosen = _flatten(tree)
    if not chosen:
        raise Malformed("expected tensors, found none; give a file of weights")
    return _below(chosen, prefix) if prefix else chosen


def _sets(tree: Any) -> dict[str, Any]:
    """Return what may be a set of weights at the top of a tree; nothing where the top is a module."""
    entries = {} if _is_module(tree) else _entries(tree)
    return {name: value for name, value in entries.items() if not isinstance(value, StoredTensor)}


def _absent(weights: str, tree: Any) -> Malformed:
    there = ", ".join(shown(name) for name, value in list(_sets(tree).items())[:16] if _flatten(value))
    there = there or "none by name"
    return Malformed(
        f"expected weights {shown(weights)!r}, found {there}; choose one of those, or none for the default"
    )


def _averages(tensors: dict[str, StoredTensor], tree: Any) -> dict[str, StoredTensor]:
    """Return the averages under their weights' names, and what has none as it is."""
    averages = {name: _EMA_PREFIX + name.replace(".", "") for name in tensors if not name.startswith(_EMA_PREFIX)}
    if not any(average in tensors for average in averages.values()):
        raise _absent(_EMA, tree)
    if len(set(averages.values())) < len(averages):
        raise Malformed("expected names that differ without their dots, found two alike; choose other weights")
    return {name: tensors.get(average, tensors[name]) for name, average in averages.items()}


def _below(tensors: dict[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    below = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not below:
        tops = ", ".join(shown(name) for name in list(dict.fromkeys(name.split(".")[0] + "." for name in tensors))[:8])
        raise Malformed(f"expected tensors called {shown(prefix)}*, found {tops}; choose one of those prefixes")
    return below


def _is_module(value: Any) -> bool:
    return isinstance(value, StandIn) and isinstance(value.state, dict) and "_modules" in value.state


def _entries(value: Any) -> dict[str, Any]:
    """Return a mapping's entries, whatever class it was of."""
    if isinstance(value, StandIn):
        return value.items or (value.state if isinstance(value.state, dict) else {})
    return value if isinstance(value, dict) else {}


def _flatten(tree: Any) -> dict[str, StoredTensor]:
    """Return all tensors below by dotted names; raises Malformed where they are too many, or two have one name."""
    flat: dict[str, StoredTensor] = {}
    left = _MAX_NODES
    todo: list[tuple[str, str, Any, int]] = [("", "", tree, 0)]  # names are joined one at a time: many may share one
    while todo:
        lead, key, value, depth = todo.pop()
        name, value = lead + key, _parameter_data(value)
        if isinstance(value, StoredTensor):
            if name in flat:
                raise Malformed(f"expected one tensor {shown(name)}, found two; download it again")
            flat[name] = value
        below = _children(value)
        left -= len(below)
        if left < 0 or depth > _MAX_DEPTH or len(name) > _MAX_NAME_CHARACTERS or len(flat) > MAX_TENSORS:
            raise Malformed(
                f"expected at most {MAX_TENSORS} tensors in {_MAX_DEPTH} levels, found more; give the weights alone"
            )
        lead = f"{name}." if name else ""
        todo += [(lead, key, inner, depth + 1) for key, inner in reversed(below)]
    return flat


def _parameter_data(value: Any) -> Any:
    """Return the tensor of a parameter as torch 0.1 stored it, among its state; torchvision's first files are so."""
    match value:
        case StandIn(state=(StoredTensor() as data, _gradient, _hooks, _requires_grad, _volatile)):
            return data
    return value


def _children(value: Any) -> list[tuple[str, Any]]:
    parts = [value.state.get(part) for part in _MODULE] if _is_module(value) else [value]
    return [
        (key, inner)
        for part in parts
        for key, inner in _entries(part).items()
        if isinstance(inner, StoredTensor | dict | StandIn)
    ]
