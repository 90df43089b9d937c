"""A module of open_clip's name and interface: it is not installed with the tests."""

import sys
from types import ModuleType

import numpy as np
import torch


class TwoTowers(torch.nn.Module):
    """Features of a picture: its mean colour; of a text: how many r, g and b it has; both through weights."""

    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Linear(3, 3, bias=False)
        self.text = torch.nn.Linear(3, 3, bias=False)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images.mean((2, 3)))

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return self.text(ids)


def stand_in(monkeypatch) -> list[tuple[str, str | None]]:
    """Put the module in open_clip's place; the models that are then made, by name and what was downloaded."""
    module = ModuleType("open_clip")
    made = []
    configs = {"Two": {"text_cfg": {"width": 3}}, "Hub": {"text_cfg": {"hf_tokenizer_name": "google/t5"}}}
    module.get_model_config = configs.get  # type: ignore[attr-defined]

    def create(name, pretrained):
        made.append((name, pretrained))
        return TwoTowers(), None, lambda picture: torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255

    module.create_model_and_transforms = create  # type: ignore[attr-defined]
    module.get_tokenizer = lambda name: (
        lambda texts: torch.tensor(  # type: ignore[attr-defined]
            [[float(text.count(letter)) for letter in "rgb"] for text in texts]
        )
    )
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return made


def save_towers(path: str) -> str:
    """Write weights of the towers, as they are saved by several GPUs; their path."""
    torch.save({"state_dict": {f"module.{name}.weight": 2 * torch.eye(3) for name in ("visual", "text")}}, path)
    return path
