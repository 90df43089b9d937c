"""Steps of parti-pytorch's training on random tokens: `python prior_training_peer.py SIZES…`, see prior_training.py.

Run with its folder on the path. What it imports for its image tokenizer and for T5, none of which is used here, has
nothing in its place.
"""

import json
import sys
import time
import types
from typing import Any, ClassVar

import torch
from torch import nn


class _Nothing(types.ModuleType):
    """A module that has whatever is asked of it."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing(f"{self.__name__}.{name}") if name == "logging" else type(name, (), {})

    def set_verbosity_error(self) -> None:
        """Do nothing."""


def _nothing(name: str) -> types.ModuleType:
    sys.modules[name] = _Nothing(name)
    return sys.modules[name]


for module in (
    "torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.utils", "transformers",
    "vector_quantize_pytorch", "ema_pytorch",
):  # fmt: skip
    _nothing(module)


class _Tokenizer(nn.Module):
    """What the prior asks of an image tokenizer when it is made; it needs a parameter."""

    def __init__(self, codebook_size: int, grid_side: int):
        super().__init__()
        self.codebook_size, self.image_size, self._grid_side = codebook_size, 8 * grid_side, grid_side
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    def get_encoded_fmap_size(self, image_size: int) -> int:
        """Return the side of the grid of tokens."""
        return self._grid_side


def main(batch: int, width: int, heads: int, grid: int, codes: int, text_ids: int, depth: int, steps: int, told: int):
    from parti_pytorch.parti_pytorch import Parti
    from parti_pytorch.t5 import DEFAULT_T5_NAME, T5_CONFIGS

    T5_CONFIGS[DEFAULT_T5_NAME] = {"config": types.SimpleNamespace(d_model=width)}
    torch.manual_seed(0)
    prior = Parti(dim=width, depth=depth, heads=heads, dim_head=width // heads, vae=_Tokenizer(codes, grid))
    learned = [parameter for parameter in prior.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, fused=True)
    text, mask = torch.randn(batch, text_ids, width), torch.ones(batch, text_ids, dtype=torch.bool)
    speeds = []
    for _ in range(steps // told):
        started = time.perf_counter()
        for _ in range(told):
            tokens = torch.randint(0, codes, (batch, grid**2))
            loss = prior(text_token_embeds=text, text_mask=mask, image_token_ids=tokens, return_loss=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        speeds.append(told * batch * grid**2 / (time.perf_counter() - started))
    print(json.dumps({"tokens_per_s": speeds, "parameters": sum(parameter.numel() for parameter in learned)}))


main(*map(int, sys.argv[1:]))
