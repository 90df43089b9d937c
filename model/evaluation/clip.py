"""CLIP models of open_clip's, an optional library, with the weights of a local file."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.checkpoints import open_checkpoint, shown
from parti_data.errors import CheckpointError, ConfigError

_WRAPPED = "module."
"""Before each name of weights that were saved as they trained on several GPUs."""


class Clip:
    """Features of pictures and of texts, each of any length."""

    def __init__(self, model: Any, prepare: Any, tokenize: Any, device: torch.device):
        self._model = model.to(device).eval().requires_grad_(False)
        self._prepare, self._tokenize, self._device = prepare, tokenize, device

    @torch.inference_mode()
    def picture_features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 (B, D) of pictures uint8 (S, S, 3), prepared as the model's own images were."""
        prepared = torch.stack([self._prepare(Image.fromarray(picture)) for picture in pictures])
        return self._model.encode_image(prepared.to(self._device)).float().cpu().numpy()

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (B, D) of texts, cut where they are longer than the model reads."""
        return self._model.encode_text(self._tokenize(list(texts)).to(self._device)).float().cpu().numpy()


def load_clip(name: str, weights: str, device: torch.device) -> Clip:
    """Return open_clip's model of a name with the weights of a file, and nothing from a network; raises ConfigError
    or CheckpointError.
    """
    open_clip = _import_open_clip()
    _refuse_downloads(open_clip, name)
    model, _, prepare = open_clip.create_model_and_transforms(name, pretrained=None)
    found = open_checkpoint(weights).tensors
    try:
        model.load_state_dict({key.removeprefix(_WRAPPED): tensor for key, tensor in found.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"{weights}: expected the weights of open_clip's {name}, found others "
            f"({shown(' '.join(str(error).split()), 200)}); name the model that they are of"
        ) from None
    return Clip(model, prepare, open_clip.get_tokenizer(name), device)


def _import_open_clip() -> ModuleType:
    try:
        import open_clip  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ConfigError(
            "clip: expected open_clip, found none; pip install 'parti[clip]' or leave the table [clip] out"
        ) from None
    return open_clip


def _refuse_downloads(open_clip: ModuleType, name: str) -> None:
    """Raise ConfigError for models that open_clip does not know, and for those whose text side comes from a hub."""
    config = open_clip.get_model_config(name) if ":" not in name else None
    if config is None:
        raise ConfigError(f"clip.model: expected a model that open_clip has built in, found {name!r}; choose another")
    text = config.get("text_cfg", {})
    if hub := text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise ConfigError(
            f"clip.model: expected a model that needs no download, found {name!r} with the tokenizer of {hub}; choose "
            "another"
        )
