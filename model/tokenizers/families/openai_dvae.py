"""OpenAI's dVAE, as published: encoder.pkl and decoder.pkl, two pickled modules.

Read off the tensors: groups, blocks, widths, codebook. Not there: the image side (256). Without its decoder it encodes
and does not decode. The project ran all but the last convolution in half precision on a GPU, so that tokens made there
differ from these in a few places.
Source: "Zero-Shot Text-to-Image Generation", arXiv 2102.12092v2, appendix A; openai/DALL-E.
"""

from collections.abc import Mapping

from torch import Tensor

from model.tokenizers.families.dvae_network import NAME, HalfShape, Halves, OpenAIDVAE, patch_side
from model.tokenizers.families.published import (
    MOST_BLOCKS,
    MOST_LEVELS,
    Family,
    Published,
    count,
    fit,
    only,
    refuse_choices,
    refuse_many,
    refuse_remainder_of_side,
    sides_of,
    tensor_named,
)
from parti_data.errors import TokenizerError

_IMAGE_SIDE = 256
_BLOCK = "blocks.group_{}.block_1.res_path.conv_1.w"


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of encoder.pkl, or of it and decoder.pkl."""
    return "encoder." + _BLOCK.format(1) in tensors or (_BLOCK.format(1) in tensors)


def build(published: Published) -> OpenAIDVAE:
    """Return the tokenizer; raises TokenizerError."""
    refuse_choices(published, "image_side")
    path, choices = published.path, published.choices
    tensors = only(published.tensors, ("encoder.blocks.", "decoder.blocks."))
    encoder = _infer(tensors, "encoder.", path)
    decoder = _infer(tensors, "decoder.", path) if "decoder.blocks.input.w" in tensors else None
    if decoder and decoder.width_in != encoder.width_out:
        raise TokenizerError(
            f"{path}: expected a decoder of {encoder.width_out} codes, found {decoder.width_in}; take both "
            "files of one release"
        )
    image_side = choices.image_side or _IMAGE_SIDE
    refuse_remainder_of_side(path, image_side, patch_side(encoder))
    both = fit(lambda: Halves(encoder, decoder), tensors, path)
    return OpenAIDVAE(both, encoder, image_side, choices.resize_recipe or "dalle", path)


def _infer(tensors: Mapping[str, Tensor], half: str, path: str) -> HalfShape:
    first_width, width_in, *_ = sides_of(tensors, f"{half}blocks.input.w", path, 4)
    width_out = sides_of(tensors, f"{half}blocks.output.conv.w", path, 4)[0]
    num_groups = count(tensors, half + _BLOCK, start=1)
    num_blocks = count(tensors, half + "blocks.group_1.block_{}.res_path.conv_1.w", start=1)
    refuse_many(path, f"groups of the {half[:-1]}", num_groups, MOST_LEVELS)
    refuse_many(path, f"blocks a group of the {half[:-1]}", num_blocks, MOST_BLOCKS)
    names = [f"{half}blocks.group_{n}.block_1.res_path.conv_4.w" for n in range(1, num_groups + 1)]
    tensor_named(tensors, f"{half}{_BLOCK.format(1)}", path)
    widths = tuple(sides_of(tensors, name, path, 4)[0] for name in names)
    return HalfShape(width_in, first_width, widths, num_blocks, width_out)


OPENAI_DVAE = Family(NAME, recognises, lambda config: False, build)
