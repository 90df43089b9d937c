from dataclasses import replace

import pytest
import torch
from torch import nn

from model.evaluation.probe_features import no_condition
from model.layers import Block
from model.priors.dalle import DALLE, DALLEShape
from model.priors.decoder_only import DecoderOnly
from model.priors.igpt import IGPT, IGPTShape
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


@pytest.mark.parametrize("objective", ["autoregressive", "bert"])
@torch.no_grad()
def test_features_of_igpt_are_normed_as_the_next_block_or_the_last_norm_would(objective):
    torch.manual_seed(0)
    model = IGPT(IGPTShape(codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2, num_layers=2,
                           objective=objective)).double().eval()  # fmt: skip
    seen: list[torch.Tensor] = []
    for norm in (model.decoder[0].self_norm, model.decoder[1].self_norm):
        norm.weight.uniform_(0.5, 2)
        norm.register_forward_hook(lambda norm, given, made: seen.append(made))
    model.decoder_norm.weight.uniform_(0.5, 2)
    last: list[torch.Tensor] = []
    model.decoder[1].register_forward_hook(lambda block, given, made: last.append(made))
    condition = torch.zeros(5, 0, dtype=torch.long)
    model.tell = lambda states: states  # which is float32
    model(condition, TOKENS)  # as it runs without a probe
    x = last[0]
    seen.append(x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * model.decoder_norm.weight)
    wanted = torch.stack([states.mean(1) for states in seen])
    found = model.features(condition, TOKENS)
    assert found.shape == (3, 5, 32)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_features_of_dalle_are_of_the_image_behind_no_text():
    torch.manual_seed(0)
    model = DALLE(DALLEShape(text_vocabulary_size=32, max_text_length=6, codebook_size=64, grid_side=4, width=32,
                             hidden=64, num_heads=2, num_layers=2, dropout=0.0)).eval()  # fmt: skip
    made: list[torch.Tensor] = []
    for block in model.decoder:
        block.register_forward_hook(lambda block, given, states: made.append(states))
    condition = no_condition(model, 5)
    assert condition.tolist() == model.without(torch.ones(5, 6, dtype=torch.long)).tolist()
    found = model.features(condition, TOKENS)
    assert made[0].shape[1] == model.num_before + 16
    torch.testing.assert_close(found[1:], torch.stack([states[:, -16:].mean(1) for states in made]))
