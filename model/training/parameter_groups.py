"""Which parameters an optimizer moves alike: of the same learning rate, with weight decay or without.

A module whose parameters learn faster or slower than the schedule says so in a table of its own, `lr_multipliers`, by
their names in it.
"""

from typing import Any

from torch import nn


def parameter_groups(network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of a network's parameters; weight decay spares everything with fewer than two dimensions."""
    multipliers = lr_multipliers(network)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        kind = multipliers.get(parameter, 1.0), parameter.dim() < 2
        groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": groups[multiplier, is_vector],
            "lr": lr * multiplier,
            "lr_multiplier": multiplier,
            "weight_decay": 0.0 if is_vector else weight_decay,
        }
        for multiplier, is_vector in sorted(groups)
    ]


def lr_multipliers(network: nn.Module) -> dict[nn.Parameter, float]:
    """Return what the schedule's rate is multiplied by, of the parameters of which a module says so."""
    return {
        module.get_parameter(name): multiplier
        for module in network.modules()
        for name, multiplier in getattr(module, "lr_multipliers", {}).items()
    }
