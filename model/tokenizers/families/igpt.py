"""iGPT's colours: each pixel becomes the nearest of 512 colour clusters.

The file is kmeans_centers.npy, (codes, 3) in [-1, 1]. The image side is chosen: 32 unless told, as iGPT-S has it.
Source: "Generative Pretraining from Pixels", Chen et al. 2020; openai/image-gpt.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.tokenizers.families.pixels import RANGES, from_pixels, to_pixels
from model.tokenizers.families.published import Family, Published, refuse_choices
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.quantize import nearest_codes
from parti_data.errors import TokenizerError

NAME = "igpt"
_IMAGE_SIDE = 32
_CHANNELS = 3
_LARGEST = 1.01
"""Of a colour's values, a grey level more than 1: numbers of 0 to 255 are not brought to -1 to 1."""


class ColourClusters(TokenizerNetwork):
    """Images to tokens, one a pixel, and back."""

    def __init__(self, clusters: Tensor, image_side: int, resize_recipe: str):
        super().__init__()
        self.clusters = nn.Parameter(clusters)
        self.image_side, self.resize_recipe = image_side, resize_recipe

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        side = self.image_side
        return TokenizerSpec(
            NAME, len(self.clusters), side, side, RANGES["symmetric"], self.resize_recipe, any_side=True
        )

    def deciding_shape(self) -> dict[str, Any]:
        """Return the image side; the clusters are all else."""
        return {"image_side": self.image_side}

    def decides_token(self, tensor_name: str) -> bool:
        """Every tensor does."""
        return True

    def to_input(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, S, S), in [-1, 1], for images uint8 (B, S, S, 3)."""
        return to_pixels(images, "symmetric")

    def latents(self, inputs: Tensor) -> Tensor:
        """Return (B, I, 3): the pixels themselves."""
        return inputs.flatten(2).transpose(1, 2)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I)."""
        return nearest_codes(latents, self.clusters)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, 3) in [0, 1]."""
        side = round(tokens.shape[1] ** 0.5)
        return from_pixels(self.clusters[tokens].transpose(1, 2).unflatten(2, (side, side)), "symmetric")


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is one tensor, a list of colours."""
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    return len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] == _CHANNELS


def build(published: Published) -> ColourClusters:
    """Return the tokenizer; raises TokenizerError."""
    refuse_choices(published, "image_side")
    path, choices = published.path, published.choices
    if not recognises(published.tensors):
        raise TokenizerError(f"{path}: expected one array (codes, {_CHANNELS}), found other; give kmeans_centers.npy")
    (clusters,) = (tensor.to(torch.float32) for tensor in published.tensors.values())
    if not len(clusters) or not bool(clusters.abs().max() <= _LARGEST):
        raise TokenizerError(
            f"{path}: expected colours from -1 to 1, found {len(clusters)} colours, none or others; give the centres "
            "as they were published"
        )
    return ColourClusters(clusters, choices.image_side or _IMAGE_SIDE, choices.resize_recipe or "resize_center")


IGPT = Family(NAME, recognises, lambda config: False, build)
