"""LlamaGen's VQ tokenizers, and Janus' copy of them: inside a language model, or as transformers renames it.

Read off the tensors: all of the architecture. Not there: the image side (256; 384 inside Janus) and that codes are
l2-normalised, which only LlamaGen's own arguments can say otherwise (`codebook_l2_norm`). The code that transformers
has for Janus does not normalise when it encodes; its weights were trained so, and the tokens here are Janus' own.
Source: FoundationVision/LlamaGen, deepseek-ai/Janus, transformers' JanusVQVAE.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.tokenizers.families.convolutional import ConvolutionalShape, infer_shape
from model.tokenizers.families.published import (
    Blocks,
    Family,
    ForeignConfig,
    ModelConfig,
    Multiples,
    Published,
    Size,
    count,
    fit,
    only,
    read_part,
    refuse_choices,
    refuse_remainder_of_side,
)
from model.tokenizers.families.vqgan import VQGAN, Autoencoder, Use

NAME = "llamagen"
_IMAGE_SIDE, _IMAGE_SIDE_OF_JANUS = 256, 384
_TENSORS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.embedding.")
_MIDDLE = {"0": "block_1", "1": "attn_1", "2": "block_2"}


class _Architecture(ForeignConfig):
    """LlamaGen's ModelArgs."""

    encoder_ch_mult: Multiples
    decoder_ch_mult: Multiples
    codebook_size: Size = 16_384
    codebook_embed_dim: Size = 8
    codebook_l2_norm: bool = True
    z_channels: Size = 256
    ch: Size = 128
    num_res_blocks: Blocks = 2


class _Transformers(ForeignConfig):
    """transformers' `vq_config`; what it leaves out has Janus' values."""

    channel_multiplier: Multiples = (1, 1, 2, 2, 4)
    num_embeddings: Size = 16_384
    embed_dim: Size = 8
    latent_channels: Size = 256
    base_channels: Size = 128
    num_res_blocks: Blocks = 2

    def architecture(self) -> _Architecture:
        """Return it by LlamaGen's names."""
        return _Architecture(
            encoder_ch_mult=self.channel_multiplier,
            decoder_ch_mult=self.channel_multiplier,
            codebook_size=self.num_embeddings,
            codebook_embed_dim=self.embed_dim,
            z_channels=self.latent_channels,
            ch=self.base_channels,
            num_res_blocks=self.num_res_blocks,
        )


class _Janus(ForeignConfig):
    """The `params` of Janus' `gen_vision_config`, which tell of the codebook alone."""

    image_token_size: Size = 16_384
    n_embed: Size = 8


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are LlamaGen's, or Janus' as transformers names them: coarsest level of the decoder first."""
    return "encoder.conv_blocks.0.res.0.conv1.weight" in tensors or _is_renamed(tensors)


def describes(config: dict[str, Any]) -> bool:
    """Whether a config holds LlamaGen's arguments, or those of a model that its tokenizer is a part of."""
    return any(name in config for name in ("encoder_ch_mult", "vq_config", "gen_vision_config", "channel_multiplier"))


def build(published: Published) -> VQGAN:
    """Return the tokenizer; raises TokenizerError."""
    refuse_choices(published, "pixel_range", "image_side")
    path, choices = published.path, published.choices
    in_file = _names_in_file(published.tensors)
    tensors = _by_tamings_names(published.tensors)
    config = _read(published.config) if published.config else None
    if isinstance(config, _Architecture):
        shape = _shape(config)
    else:
        shape = infer_shape(tensors, "quantize.embedding.weight", path)
    if isinstance(config, _Janus):
        shape = replace(shape, codebook_size=config.image_token_size, code_width=config.n_embed)
    quantizer = "euclid" if isinstance(config, _Architecture) and not config.codebook_l2_norm else "cosine"
    autoencoder = fit(lambda: Autoencoder(shape, quantizer), tensors, path, in_file)
    is_part = bool(published.prefix) or _is_renamed(published.tensors)
    image_side = choices.image_side or (_IMAGE_SIDE_OF_JANUS if is_part else _IMAGE_SIDE)
    refuse_remainder_of_side(path, image_side, shape.patch_side)
    scale = choices.pixel_range or "symmetric"
    return VQGAN(autoencoder, shape, Use(NAME, quantizer, image_side, scale, choices.resize_recipe or "adm"))


def _read(config: ModelConfig) -> _Architecture | _Janus:
    values = config.values
    if "gen_vision_config" in values:
        part = values["gen_vision_config"]
        params = part.get("params", {}) if isinstance(part, dict) else part
        return read_part(_Janus, params, config.path)
    if "vq_config" in values or "channel_multiplier" in values:
        return read_part(_Transformers, values.get("vq_config", values), config.path).architecture()
    return read_part(_Architecture, values, config.path)


def _shape(config: _Architecture) -> ConvolutionalShape:
    """Return the architecture that a config states: attention at the coarsest level, whatever its resolution."""
    return ConvolutionalShape(
        first_width=config.ch,
        widths=tuple(config.ch * multiple for multiple in config.encoder_ch_mult),
        num_blocks=config.num_res_blocks,
        attention_levels=(len(config.encoder_ch_mult) - 1,),
        z_width=config.z_channels,
        code_width=config.codebook_embed_dim,
        codebook_size=config.codebook_size,
    )


def _is_renamed(tensors: Mapping[str, Tensor]) -> bool:
    return "encoder.down.0.block.0.conv1.weight" in tensors and "decoder.up.0.upsample.conv.weight" in tensors


def _by_tamings_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that taming has for the same places."""
    kept = only(tensors, _TENSORS)
    num_levels = _num_levels(tensors)
    return {_to_taming(name, num_levels): tensor for name, tensor in kept.items()}


def _num_levels(tensors: Mapping[str, Tensor]) -> int:
    return max(
        count(tensors, "decoder.conv_blocks.{}.res.0.conv1.weight"),
        count(tensors, "decoder.up.{}.block.0.conv1.weight"),
    )


def _to_taming(name: str, num_levels: int) -> str:
    name = name.replace("encoder.conv_blocks.", "encoder.down.").replace("decoder.conv_blocks.", "decoder.up.")
    name = re.sub(r"^((?:en|de)coder\.(?:down|up)\.\d+)\.res\.", r"\1.block.", name)
    name = re.sub(r"^((?:en|de)coder\.mid)\.([012])\.", lambda found: f"{found[1]}.{_MIDDLE[found[2]]}.", name)
    return _other_end(name, num_levels)


def _other_end(name: str, num_levels: int) -> str:
    """Return the name with the decoder's levels counted from the other end."""
    return re.sub(r"^decoder\.up\.(\d+)", lambda found: f"decoder.up.{num_levels - 1 - int(found[1])}", name)


def _names_in_file(tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    """Return how the file calls what taming has a name for: what `_to_taming` undoes."""
    num_levels, is_renamed = _num_levels(tensors), _is_renamed(tensors)

    def in_file(name: str) -> str:
        name = _other_end(name, num_levels)
        if is_renamed:
            return name
        name = re.sub(r"^((?:en|de)coder\.(?:down|up)\.\d+)\.block\.", r"\1.res.", name)
        for number, part in _MIDDLE.items():
            name = re.sub(rf"^((?:en|de)coder\.mid)\.{part}\.", rf"\1.{number}.", name)
        return re.sub(r"^(en|de)coder\.(?:down|up)\.", r"\1coder.conv_blocks.", name)

    return in_file


LLAMAGEN = Family(NAME, recognises, describes, build)
