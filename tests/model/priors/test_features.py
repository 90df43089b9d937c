from dataclasses import replace

import pytest
import torch
from torch import nn

from model.layers import Block
from model.priors.decoder_only import DecoderOnly
from model.priors.vim import VIM, VIMShape

PLAIN = VIMShape(codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2, num_layers=3, dropout=0.0)
TOKENS = torch.randint(0, 64, (5, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [PLAIN, replace(PLAIN, class_conditional=True, classes=("a", "b"))])
@torch.no_grad()
def test_features_are_the_means_of_what_blocks_read_and_leave(shape):
    torch.manual_seed(0)
    model = VIM(shape).double().eval()
    condition = model.without(torch.zeros(5, int(shape.class_conditional), dtype=torch.long))
    seen: list[torch.Tensor] = []
    model.decoder[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    for block in model.decoder:
        block.register_forward_hook(lambda block, given, made: seen.append(made))
    features = model.features(condition, TOKENS)
    assert (features.dtype, features.shape) == (torch.float32, (4, 5, 32))
    assert [tuple(x.shape) for x in seen] == [(5, 16, 32)] * 4
    means = torch.stack([sum(x[:, place] for place in range(16)) / 16 for x in seen])
    torch.testing.assert_close(features.double(), means, atol=1e-6, rtol=1e-6)


class Prefixed(DecoderOnly):
    """A prior behind three positions, whose features are twice what blocks make, and block 1's three times."""

    def __init__(self, shape):
        super().__init__(shape, [None] * shape.num_layers)  # type: ignore[list-item]
        self.prefix = nn.Parameter(torch.randn(1, 3, shape.width))
        self.decoder = nn.ModuleList(Block(shape.block) for _ in range(shape.num_layers))

    def embed_prefix(self, condition):
        return self.prefix.expand(len(condition), -1, -1)

    def read_positions(self):
        return torch.zeros(15, self.shape.width)

    def _feature(self, x, layer):
        return x * (3 if layer == 1 else 2)


@torch.no_grad()
def test_positions_before_the_one_that_tells_the_first_token_do_not_count_and_a_family_has_its_own_features():
    class Shape(VIMShape):
        num_prefix = 3

    torch.manual_seed(0)
    model = Prefixed(Shape(**{name: getattr(PLAIN, name) for name in ("codebook_size", "grid_side", "width", "hidden",
                     "num_heads", "num_layers", "dropout")})).eval()  # fmt: skip
    read: list[torch.Tensor] = []
    for block in model.decoder:
        block.register_forward_hook(lambda block, given, made: read.append(made))
    features = model.features(torch.zeros(5, 0), TOKENS)
    assert read[0].shape == (5, 18, 32)
    torch.testing.assert_close(features[1], 3 * read[0][:, 2:].mean(1))
    torch.testing.assert_close(features[2], 2 * read[1][:, 2:].mean(1))
