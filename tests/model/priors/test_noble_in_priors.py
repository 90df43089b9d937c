"""Every family of priors with NOBLE's branches: where they are, how they begin, and that a step decodes with them."""

import pytest
import torch
from torch import nn

from model.noble import NobleBranch, NobleLinear, NobleShape
from model.priors.families import FAMILIES
from model.priors.prior import Prior

NOBLE = NobleShape(rank=8)
SIZES = {"codebook_size": 64, "grid_side": 4, "width": 32, "hidden": 64, "num_heads": 2, "dropout": 0.0}
LAYERS = {"parti": {"num_encoder_layers": 1, "num_decoder_layers": 2}}
TEXT_IDS = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 0]])
TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=FAMILIES)
def prior(request) -> Prior:
    torch.manual_seed(0)
    family = FAMILIES[request.param]
    return family.network(family.shape(**SIZES, **LAYERS.get(request.param, {"num_layers": 2}), noble=NOBLE)).eval()


def test_every_linear_layer_of_every_block_has_a_branch_that_begins_as_published(prior):
    for block in prior.blocks:
        layers = [module for module in block.modules() if isinstance(module, NobleLinear)]
        inside = {id(module) for layer in layers for module in layer.modules()}
        assert all(id(module) in inside for module in block.modules() if isinstance(module, nn.Linear))
    branches = [module for module in prior.modules() if isinstance(module, NobleBranch)]
    for branch in branches:
        stds = [up.weight.std().item() for up in branch.up]
        assert stds == [pytest.approx(0.01 * NOBLE.rank**-0.5, rel=0.3)] * len(stds)
        assert 0.8 <= branch.first.frequency.min() < branch.first.frequency.max() <= 1.2
    assert len(branches) == sum(7 if block.cross_attention else 4 for block in prior.blocks)


@torch.no_grad()
def test_a_step_decodes_with_branches_as_the_whole_does(prior, compare_steps):
    nn.init.normal_(prior.to_logits.weight)  # an iGPT's begin at zero
    condition = prior.condition(["a", "b"], TEXT_IDS)
    whole = prior(condition, TOKENS)
    compare_steps(prior, condition, TOKENS)
    branches = [module for module in prior.modules() if isinstance(module, NobleBranch)]
    for branch in branches:
        for up in branch.up:
            up.weight.zero_()
    assert not torch.allclose(prior(condition, TOKENS), whole, atol=1e-5)
