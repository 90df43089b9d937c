"""The families of priors, by the name that a config and the header of a prior's file give."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from model.priors.dalle import DALLE, DALLEShape
from model.priors.igpt import IGPT, IGPTShape
from model.priors.parti import Parti, PartiShape
from model.priors.prior import Prior
from model.priors.vim import VIM, VIMShape

FamilyName = Literal["parti", "vim", "dalle", "igpt"]


class Family(NamedTuple):
    """A family's architecture and the network that is made of it."""

    shape: type[Any]
    network: Callable[[Any], Prior]


FAMILIES: dict[str, Family] = {
    "parti": Family(PartiShape, Parti),
    "vim": Family(VIMShape, VIM),
    "dalle": Family(DALLEShape, DALLE),
    "igpt": Family(IGPTShape, IGPT),
}


def family_of(prior: Prior) -> str:
    """Return the name of a prior's family."""
    return next(name for name, family in FAMILIES.items() if type(prior.shape) is family.shape)
