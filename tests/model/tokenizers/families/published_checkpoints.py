"""Tiny checkpoints with the names and shapes of published ones, and what each network computes, written out in float64.

Written from what is known of the projects' code, apart from the modules that are tested. No constant initial value is
left, and codebooks are filled from latents, so that a forgotten bias or norm shows at once.
"""

import math
from collections.abc import Callable

import msgpack
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


class Maker:
    """Random tensors by name, of a seed."""

    def __init__(self, seed: int):
        self.tensors: Tensors = {}
        self._generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def layer(self, name: str, *shape: int, bias: str = "bias", weight: str = "weight") -> None:
        self.tensors[f"{name}.{weight}"] = self.random(*shape) / math.sqrt(math.prod(shape[1:]))
        if bias:
            self.tensors[f"{name}.{bias}"] = 0.1 * self.random(shape[0])

    def norm(self, name: str, width: int) -> None:
        self.tensors[f"{name}.weight"] = 1 + 0.3 * self.random(width)
        self.tensors[f"{name}.bias"] = 0.1 * self.random(width)


class Names:
    """What a convolutional autoencoder's parts are called."""

    def __init__(self, down: str, up: str, block: str, middle: tuple[str, str, str], coarsest_first: bool):
        self.down, self.up, self.block, self.middle = down, up, block, middle
        self.coarsest_first = coarsest_first


TAMING = Names("encoder.down", "decoder.up", "block", ("block_1", "attn_1", "block_2"), coarsest_first=False)
LLAMAGEN = Names("encoder.conv_blocks", "decoder.conv_blocks", "res", ("0", "1", "2"), coarsest_first=True)
TRANSFORMERS = Names("encoder.down", "decoder.up", "block", ("block_1", "attn_1", "block_2"), coarsest_first=True)


class Autoencoder:
    """A convolutional autoencoder: its tensors, and what it computes."""

    def __init__(self, names: Names, tensors: Tensors, num_levels: int):
        self.names, self.tensors, self.num_levels = names, tensors, num_levels

    def _up(self, level: int) -> str:
        number = self.num_levels - 1 - level if self.names.coarsest_first else level
        return f"{self.names.up}.{number}"

    def latents(self, x: Tensor, nested: bool = False) -> Tensor:
        """Return (B, I, K) for pixels (B, 3, S, S)."""
        t = doubled(self.tensors)
        x = conv(t, "encoder.conv_in", x.double())
        for level in range(self.num_levels):
            x = self._level(t, f"{self.names.down}.{level}", x, nested)
            if level < self.num_levels - 1:
                down = f"{self.names.down}.{level}.downsample.conv"
                has_conv = f"{down}.weight" in t
                x = conv(t, down, F.pad(x, (0, 1, 0, 1)), stride=2, pad=0) if has_conv else F.avg_pool2d(x, 2)
        x = self._middle(t, "encoder.mid", x)
        x = conv(t, "encoder.conv_out", swish(group_norm(t, "encoder.norm_out", x)))
        return conv(t, "quant_conv", x, pad=0).flatten(2).transpose(1, 2)

    def pixels(self, codes: Tensor, nested: bool = False) -> Tensor:
        """Return (B, 3, S, S) for codes (B, I, K)."""
        t = doubled(self.tensors)
        side = math.isqrt(codes.shape[1])
        x = conv(t, "post_quant_conv", codes.transpose(1, 2).reshape(len(codes), -1, side, side), pad=0)
        x = self._middle(t, "decoder.mid", conv(t, "decoder.conv_in", x))
        for level in reversed(range(self.num_levels)):
            x = self._level(t, self._up(level), x, nested)
            if level:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                name = f"{self._up(level)}.upsample.conv"
                x = conv(t, name, x) if f"{name}.weight" in t else x
        return conv(t, "decoder.conv_out", swish(group_norm(t, "decoder.norm_out", x)))

    def _level(self, t: Tensors, name: str, x: Tensor, nested: bool) -> Tensor:
        block = 0
        while f"{name}.{self.names.block}.{block}.conv1.weight" in t:
            x = residual(t, f"{name}.{self.names.block}.{block}", x)
            for number in range(8) if nested else [block]:
                x = attention(t, f"{name}.attn.{number}", x) if f"{name}.attn.{number}.q.weight" in t else x
            block += 1
        return x

    def _middle(self, t: Tensors, name: str, x: Tensor) -> Tensor:
        first, second, third = (f"{name}.{part}" for part in self.names.middle)
        x = residual(t, first, x)
        x = attention(t, second, x) if f"{second}.q.weight" in t else x
        return residual(t, third, x)


def make_autoencoder(
    names: Names = TAMING,
    mult: tuple[int, ...] = (1, 2),
    attention_levels: tuple[int, ...] = (1,),
    resamples: bool = True,
    middle_attention: bool = True,
    codes: int = 48,
) -> Autoencoder:
    """Return an autoencoder of 32 channels, two blocks a level, z 8 wide, codes 4 wide."""
    make, ch, z, width = Maker(7), 32, 8, 4
    net = Autoencoder(names, make.tensors, len(mult))
    widths = [ch * m for m in mult]
    make.layer("encoder.conv_in", ch, 3, 3, 3)
    before = ch
    for level, after in enumerate(widths):
        _make_level(make, f"{names.down}.{level}", names.block, before, after, 2, level in attention_levels)
        before = after
        if level < len(widths) - 1 and resamples:
            make.layer(f"{names.down}.{level}.downsample.conv", after, after, 3, 3)
    _make_middle(make, "encoder.mid", names, before, middle_attention)
    make.norm("encoder.norm_out", before)
    make.layer("encoder.conv_out", z, before, 3, 3)
    make.layer("decoder.conv_in", before, z, 3, 3)
    _make_middle(make, "decoder.mid", names, before, middle_attention)
    for level in reversed(range(len(widths))):
        _make_level(make, net._up(level), names.block, before, widths[level], 3, level in attention_levels)
        before = widths[level]
        if level and resamples:
            make.layer(f"{net._up(level)}.upsample.conv", before, before, 3, 3)
    make.norm("decoder.norm_out", before)
    make.layer("decoder.conv_out", 3, before, 3, 3)
    make.layer("quant_conv", width, z, 1, 1)
    make.layer("post_quant_conv", z, width, 1, 1)
    make.tensors["quantize.embedding.weight"] = some_of(net.latents(2 * noise_pixels() - 1), codes)
    return net


def _make_level(make: Maker, name: str, block: str, before: int, after: int, blocks: int, attends: bool) -> None:
    for number in range(blocks):
        _make_residual(make, f"{name}.{block}.{number}", after if number else before, after)
        if attends:
            _make_attention(make, f"{name}.attn.{number}", after)


def _make_residual(make: Maker, name: str, before: int, after: int) -> None:
    make.norm(f"{name}.norm1", before)
    make.layer(f"{name}.conv1", after, before, 3, 3)
    make.norm(f"{name}.norm2", after)
    make.layer(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        make.layer(f"{name}.nin_shortcut", after, before, 1, 1)


def _make_attention(make: Maker, name: str, width: int) -> None:
    make.norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        make.layer(f"{name}.{part}", width, width, 1, 1)


def _make_middle(make: Maker, name: str, names: Names, width: int, attends: bool) -> None:
    first, second, third = (f"{name}.{part}" for part in names.middle)
    _make_residual(make, first, width, width)
    if attends:
        _make_attention(make, second, width)
    _make_residual(make, third, width, width)


def make_vit(
    widths: tuple[int, int] = (64, 32), heads: tuple[int, int] = (2, 1), codes: int = 40, head_width: int = 64
) -> Tensors:
    """Return a ViT-VQGAN for 32 px, patches of 8, two layers; one head as wide as the network has no to_out."""
    make, hidden, code_width = Maker(11), 48, 6
    for half, width, num_heads in zip(("encoder", "decoder"), widths, heads, strict=True):
        make.tensors[f"{half}.{half[:2]}_pos_embedding"] = make.random(1, 16, width)
        for layer in range(2):
            name, inner = f"{half}.transformer.layers.{layer}", num_heads * head_width
            make.norm(f"{name}.0.norm", width)
            make.layer(f"{name}.0.fn.to_qkv", 3 * inner, width, bias="")
            if not (num_heads == 1 and width == head_width):
                make.layer(f"{name}.0.fn.to_out", width, inner)
            make.norm(f"{name}.1.norm", width)
            make.layer(f"{name}.1.fn.net.0", hidden, width)
            make.layer(f"{name}.1.fn.net.2", width, hidden)
        make.norm(f"{half}.transformer.norm", width)
    make.layer("encoder.to_patch_embedding.0", widths[0], 3, 8, 8)
    make.tensors["decoder.to_pixel.1.weight"] = make.random(widths[1], 3, 8, 8) / math.sqrt(widths[1])
    make.tensors["decoder.to_pixel.1.bias"] = 0.1 * make.random(3)
    make.layer("pre_quant", code_width, widths[0])
    make.layer("post_quant", widths[1], code_width)
    make.tensors["quantizer.embedding.weight"] = 1.7 * some_of(
        vit_latents(make.tensors, noise_pixels(), heads[0]), codes
    )
    return make.tensors


def vit_latents(tensors: Tensors, x: Tensor, num_heads: int) -> Tensor:
    """Return (B, I, K), not normalised."""
    t = doubled(tensors)
    x = F.conv2d(x.double(), *layer(t, "encoder.to_patch_embedding.0"), stride=8).flatten(2).transpose(1, 2)
    x = _vit_layers(t, "encoder", x + t["encoder.en_pos_embedding"], num_heads)
    return F.linear(x, *layer(t, "pre_quant"))


def vit_pixels(tensors: Tensors, codes: Tensor, num_heads: int) -> Tensor:
    """Return (B, 3, S, S) for codes (B, I, K)."""
    t = doubled(tensors)
    x = F.linear(codes, *layer(t, "post_quant")) + t["decoder.de_pos_embedding"]
    x = _vit_layers(t, "decoder", x, num_heads)
    weight, bias = layer(t, "decoder.to_pixel.1")
    patches = torch.einsum("bnd,dcyx->bcnyx", x, weight).unflatten(2, (4, 4))
    return patches.permute(0, 1, 2, 4, 3, 5).reshape(len(x), 3, 32, 32) + bias[:, None, None]  # type: ignore[index]


def _vit_layers(t: Tensors, half: str, x: Tensor, num_heads: int) -> Tensor:
    for number in range(2):
        name = f"{half}.transformer.layers.{number}"
        y = layer_norm(t, f"{name}.0.norm", x) @ t[f"{name}.0.fn.to_qkv.weight"].T
        q, k, v = (part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in y.chunk(3, 2))
        y = ((q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1) @ v).transpose(1, 2).flatten(2)
        if f"{name}.0.fn.to_out.weight" in t:
            y = F.linear(y, *layer(t, f"{name}.0.fn.to_out"))
        x = x + y
        y = F.linear(layer_norm(t, f"{name}.1.norm", x), *layer(t, f"{name}.1.fn.net.0")).tanh()
        x = x + F.linear(y, *layer(t, f"{name}.1.fn.net.2"))
    return layer_norm(t, f"{half}.transformer.norm", x)


def make_dvae(blocks: int = 2, codes: int = 24) -> tuple[Tensors, Tensors]:
    """Return an encoder and a decoder of three groups."""
    encoder, decoder = Maker(13), Maker(14)
    encoder_kernels, decoder_kernels = (3, 3, 3, 1), (1, 3, 3, 3)
    for make, first, widths, ends, kernels, kernel in (
        (encoder, 8, (8, 16, 32), (3, codes), encoder_kernels, 7),
        (decoder, 12, (32, 16, 8), (codes, 6), decoder_kernels, 1),
    ):
        make.layer("blocks.input", first, ends[0], kernel, kernel, weight="w", bias="b")
        before = first
        for group, width in enumerate(widths, 1):
            for block in range(1, blocks + 1):
                name = f"blocks.group_{group}.block_{block}"
                if before != width:
                    make.layer(f"{name}.id_path", width, before, 1, 1, weight="w", bias="b")
                sizes = (before, width // 4, width // 4, width // 4, width)
                for n, k in enumerate(kernels):
                    make.layer(f"{name}.res_path.conv_{n + 1}", sizes[n + 1], sizes[n], k, k, weight="w", bias="b")
                before = width
        make.layer("blocks.output.conv", ends[1], before, 1, 1, weight="w", bias="b")
    for make in (encoder, decoder):  # the gain is small, so that what it scales has to be seen
        for name in make.tensors:
            if "res_path.conv_4.w" in name:
                make.tensors[name] *= 20
    return encoder.tensors, decoder.tensors


def dvae_half(tensors: Tensors, x: Tensor, resample: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the logits, or the decoder's statistics."""
    t, blocks, groups = doubled(tensors), 2, 3
    x = _same(t, "blocks.input", x.double())
    for group in range(1, groups + 1):
        for block in range(1, blocks + 1):
            name = f"blocks.group_{group}.block_{block}"
            y = x
            for n in range(1, 5):
                y = _same(t, f"{name}.res_path.conv_{n}", y.clamp(min=0))
            x = (_same(t, f"{name}.id_path", x) if f"{name}.id_path.w" in t else x) + y / (groups * blocks) ** 2
        x = resample(x) if group < groups else x
    return _same(t, "blocks.output.conv", x.clamp(min=0))


def _same(t: Tensors, name: str, x: Tensor) -> Tensor:
    weight = t[f"{name}.w"]
    return F.conv2d(x, weight, t[f"{name}.b"], padding=weight.shape[-1] // 2)


def doubled(tensors: Tensors) -> Tensors:
    return {name: tensor.double() for name, tensor in tensors.items()}


def layer(t: Tensors, name: str) -> tuple[Tensor, Tensor | None]:
    return t[f"{name}.weight"], t.get(f"{name}.bias")


def conv(t: Tensors, name: str, x: Tensor, stride: int = 1, pad: int = 1) -> Tensor:
    return F.conv2d(x, *layer(t, name), stride=stride, padding=pad)


def layer_norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]


def group_norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    groups = x.unflatten(1, (32, -1)).flatten(2)
    groups = groups - groups.mean(-1, keepdim=True)
    groups = groups / (groups.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return groups.reshape(x.shape) * t[f"{name}.weight"][:, None, None] + t[f"{name}.bias"][:, None, None]


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def residual(t: Tensors, name: str, x: Tensor) -> Tensor:
    y = conv(t, f"{name}.conv1", swish(group_norm(t, f"{name}.norm1", x)))
    y = conv(t, f"{name}.conv2", swish(group_norm(t, f"{name}.norm2", y)))
    return y + (conv(t, f"{name}.nin_shortcut", x, pad=0) if f"{name}.nin_shortcut.weight" in t else x)


def attention(t: Tensors, name: str, x: Tensor) -> Tensor:
    y = group_norm(t, f"{name}.norm", x)
    q, k, v = (conv(t, f"{name}.{part}", y, pad=0).flatten(2) for part in "qkv")
    weights = (torch.einsum("bci,bcj->bij", q, k) * x.shape[1] ** -0.5).softmax(2)
    return x + conv(t, f"{name}.proj_out", torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape), pad=0)


def nearest(latents: Tensor, codes: Tensor, normalise: bool = False) -> Tensor:
    """Return the tokens of latents (B, I, K)."""
    codes = codes.double()
    if normalise:
        latents, codes = F.normalize(latents, dim=-1), F.normalize(codes, dim=-1)
    return torch.cdist(latents, codes[None], compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)


def noise_images(count: int = 5, side: int = 32) -> np.ndarray:
    """Return pictures uint8 (N, S, S, 3): blobs and noise."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (count, side // 8, side // 8, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(coarse + rng.normal(0, 30, (count, side, side, 3)), 0, 255).astype(np.uint8)


def noise_pixels(side: int = 32) -> Tensor:
    """Return the same in [0, 1], float64 (N, 3, S, S)."""
    return torch.from_numpy(noise_images(side=side)).permute(0, 3, 1, 2).double() / 255


def some_of(latents: Tensor, count: int) -> Tensor:
    """Return some latents, float32 (V, K), each a little moved."""
    rows = latents.flatten(0, 1)
    generator = torch.Generator().manual_seed(5)
    chosen = rows[torch.randperm(len(rows), generator=generator)[:count]]
    return (chosen + 0.1 * rows.std() * torch.randn(chosen.shape, generator=generator)).float()


def to_flax(tensors: Tensors) -> bytes:
    """Return taming's tensors as dalle-mini's flax_model.msgpack holds them."""
    tree: dict = {}
    for name, tensor in tensors.items():
        *steps, last = name.split(".")
        array = tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor
        if last == "weight":
            last = "scale" if steps[-1].startswith("norm") else "embedding" if steps[0] == "quantize" else "kernel"
        place = tree
        for step in _joined(steps):
            place = place.setdefault(step, {})
        place[last] = np.ascontiguousarray(array.numpy())
    return msgpack.packb(tree, default=_array)  # type: ignore[return-value]


def _joined(steps: list[str]) -> list[str]:
    """Return down, 0 as down_0: what flax calls the parts of a list."""
    joined: list[str] = []
    for step in steps:
        if step.isdigit():
            joined[-1] += f"_{step}"
        else:
            joined.append(step)
    return joined


def _array(array: np.ndarray) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))  # type: ignore[arg-type]
