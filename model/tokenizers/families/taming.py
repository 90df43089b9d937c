"""taming-transformers' VQGAN and GumbelVQ, the VQ models of latent diffusion, and dalle-mini's copies in flax.

Read off the tensors: widths, levels, blocks, attention, codebook. Not there: the image side (256, or the config's
`resolution`) and what pixels are: [-1, 1]; [0, 1] in a file of flax, which is how dalle-mini uses it. GumbelVQ draws
noise when it encodes; here the token is the likeliest code.
Source: CompVis/taming-transformers, CompVis/latent-diffusion, patil-suraj/vqgan-jax.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt
from torch import Tensor

from model.tokenizers.families.convolutional import ConvolutionalShape, infer_shape
from model.tokenizers.families.published import (
    Blocks,
    Family,
    ForeignConfig,
    Multiples,
    Published,
    Side,
    Size,
    fit,
    only,
    read_part,
    refuse_choices,
    refuse_remainder_of_side,
)
from model.tokenizers.families.vqgan import VQGAN, Autoencoder, Use
from parti_data.errors import TokenizerError

NAME = "taming"
_IMAGE_SIDE = 256
_TENSORS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
_GUMBEL = "quantize.proj.weight"
_TARGETS = ("VQModel", "VQModelInterface", "VQNoDiscModel", "VQSegmentationModel", "GumbelVQ", "VQGAN")
"""Classes whose tokens these are; others share the network and choose codes in another way, as IBQ does."""


class _Architecture(ForeignConfig):
    """`ddconfig`, or the whole of dalle-mini's config.json."""

    ch: Size
    ch_mult: Multiples
    num_res_blocks: Blocks
    attn_resolutions: list[NonNegativeInt]
    resolution: Side
    z_channels: Size
    double_z: bool = False
    resamp_with_conv: bool = True
    attn_type: str = "vanilla"
    tanh_out: bool = False


class _Model(ForeignConfig):
    """What stands beside `ddconfig`."""

    n_embed: Size
    embed_dim: Size
    remap: str | None = None
    is_gumbel: bool | None = None
    """None where no class is named."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of a VQGAN, of torch or of flax."""
    names = _torch_names(tensors)
    has_codebook = "quantize.embedding.weight" in names or _GUMBEL in names
    return has_codebook and "encoder.down.0.block.0.conv1.weight" in names


def describes(config: dict[str, Any]) -> bool:
    """Whether a config is one of taming's, latent diffusion's or dalle-mini's."""
    _, model, architecture = _parts(config)
    return "ch_mult" in architecture and "n_embed" in model


def build(published: Published) -> VQGAN:
    """Return the tokenizer; raises TokenizerError."""
    refuse_choices(published, "pixel_range", "image_side", "attention")
    path, choices = published.path, published.choices
    is_flax = _is_flax(published.tensors)
    tensors = only(_from_flax(published.tensors) if is_flax else published.tensors, _TENSORS)
    if "quantize.used" in tensors:
        raise TokenizerError(
            f"{path}: expected a codebook used whole, found remapped codes; taken are models without remap"
        )
    nested = choices.attention == "nested"
    config = _read(published)
    is_gumbel = config[1].is_gumbel if config and config[1].is_gumbel is not None else _GUMBEL in tensors
    if config:
        shape = _shape(config, nested)
    else:
        codebook = "quantize.embed.weight" if is_gumbel else "quantize.embedding.weight"
        shape = infer_shape(tensors, codebook, path, nested)
    quantizer = "gumbel" if is_gumbel else "euclid"
    autoencoder = fit(
        lambda: Autoencoder(shape, quantizer), tensors, path, _flax_name if is_flax else lambda name: name
    )
    pixel_range = choices.pixel_range or ("unit" if is_flax else "symmetric")
    image_side = choices.image_side or (config[0].resolution if config else _IMAGE_SIDE)
    refuse_remainder_of_side(path, image_side, shape.patch_side)
    use = Use(
        NAME,
        quantizer,
        image_side,
        "unit" if pixel_range == "unit" else "symmetric_float64",
        choices.resize_recipe or ("resize_center" if pixel_range == "unit" else "taming"),
        has_tanh=bool(config and config[0].tanh_out),
    )
    return VQGAN(autoencoder, shape, use)


def _parts(config: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the class that a config names, or "", what stands beside `ddconfig`, and that."""
    outer = config.get("model", config)
    outer = outer if isinstance(outer, dict) else {}
    inner = outer.get("params", outer)
    first_stage = inner.get("first_stage_config") if isinstance(inner, dict) else None
    if isinstance(first_stage, dict):  # of a model that was trained on the tokens
        outer, inner = first_stage, first_stage.get("params", {})
    inner = inner if isinstance(inner, dict) else {}
    architecture = inner.get("ddconfig", inner)
    return (
        str(outer.get("target", "")).rsplit(".", 1)[-1],
        inner,
        architecture if isinstance(architecture, dict) else {},
    )


def _read(published: Published) -> tuple[_Architecture, _Model] | None:
    if published.config is None:
        return None
    path = published.config.path
    target, model, architecture = _parts(published.config.values)
    if target and target not in _TARGETS:
        raise TokenizerError(
            f"{path}: expected one of {', '.join(_TARGETS)}, found {target}; its tokens are chosen otherwise"
        )
    read = (
        read_part(_Architecture, architecture, path),
        read_part(_Model, model | {"is_gumbel": target == "GumbelVQ" if target else None}, path),
    )
    if read[1].remap:
        raise TokenizerError(
            f"{path}: expected a codebook used whole, found remap {read[1].remap}; taken are models without"
        )
    if read[0].attn_type not in ("vanilla", "none"):
        raise TokenizerError(f"{path}: expected attn_type vanilla or none, found {read[0].attn_type}")
    return read


def _shape(config: tuple[_Architecture, _Model], nested: bool) -> ConvolutionalShape:
    """Return the architecture that a config states: attention at a level is told by the training resolution."""
    architecture, model = config
    levels = range(len(architecture.ch_mult))
    has_attention = architecture.attn_type != "none"
    return ConvolutionalShape(
        first_width=architecture.ch,
        widths=tuple(architecture.ch * multiple for multiple in architecture.ch_mult),
        num_blocks=architecture.num_res_blocks,
        attention_levels=tuple(
            level
            for level in levels
            if has_attention and architecture.resolution // 2**level in architecture.attn_resolutions
        ),
        z_width=architecture.z_channels,
        code_width=model.embed_dim,
        codebook_size=model.n_embed,
        has_middle_attention=has_attention,
        resamples_with_convolution=architecture.resamp_with_conv,
        nested_attention=nested,
    )


def _is_flax(tensors: Mapping[str, Tensor]) -> bool:
    return "encoder.conv_in.kernel" in tensors


def _torch_names(tensors: Mapping[str, Tensor]) -> set[str]:
    return {_torch_name(name) for name in tensors} if _is_flax(tensors) else set(tensors)


def _torch_name(name: str) -> str:
    """Return taming's name for one of flax's: numbers of levels stand apart, those of the middle do not."""
    if ".mid." not in name:
        name = re.sub(r"\.(down|up|block|attn)_(\d+)(?=\.)", r".\1.\2", name)
    return re.sub(r"\.(kernel|scale|embedding)$", ".weight", name)


def _flax_name(name: str) -> str:
    """Undo `_torch_name`."""
    if ".mid." not in name:
        name = re.sub(r"\.(down|up|block|attn)\.(\d+)(?=\.)", r".\1_\2", name)
    last = "scale" if ".norm" in name else "embedding" if name.startswith("quantize.") else "kernel"
    return re.sub(r"\.weight$", f".{last}", name)


def _from_flax(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return flax's tensors as torch has them: kernels (h, w, in, out) become (out, in, h, w)."""
    return {
        _torch_name(name): tensor.permute(3, 2, 0, 1) if name.endswith(".kernel") and tensor.dim() == 4 else tensor
        for name, tensor in tensors.items()
    }


TAMING = Family(NAME, recognises, describes, build)
