"""The families of published tokenizers, one file each; a new one is a file and a line here."""

from collections.abc import Mapping

from torch import Tensor

from model.checkpoints import shown
from model.tokenizers.families.enhancing import ENHANCING
from model.tokenizers.families.igpt import IGPT
from model.tokenizers.families.llamagen import LLAMAGEN
from model.tokenizers.families.openai_dvae import OPENAI_DVAE
from model.tokenizers.families.published import Family, ModelConfig, Published
from model.tokenizers.families.taming import TAMING
from parti_data.errors import TokenizerError

FAMILIES = (ENHANCING, LLAMAGEN, TAMING, OPENAI_DVAE, IGPT)
"""In the order in which tensors are shown to them: what transformers renames is nearly taming's."""
_NAMES_SHOWN = 5

__all__ = ["FAMILIES", "Family", "ModelConfig", "Published", "find_family"]


def find_family(tensors: Mapping[str, Tensor], kind: str, path: str) -> Family:
    """Return the family named, or the one that recognises the tensors; raises TokenizerError."""
    kinds = [family.name for family in FAMILIES]
    if kind and kind not in kinds:
        raise TokenizerError(f"{path}: expected a kind among {', '.join(kinds)}, found {kind}")
    found = [family for family in FAMILIES if (family.name == kind if kind else family.recognises(tensors))]
    if not found:
        first = ", ".join(shown(name) for name in list(tensors)[:_NAMES_SHOWN])
        raise TokenizerError(
            f"{path}: expected a tokenizer of ours or one of {', '.join(kinds)}, found tensors {first}, …; give kind, "
            "or prefix where it lies inside a larger model"
        )
    return found[0]
