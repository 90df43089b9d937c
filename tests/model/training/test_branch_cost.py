import re
from dataclasses import replace

import pytest
import torch

from model.noble import NobleShape
from model.priors.parti import Parti, PartiShape
from model.priors.vim import VIM, VIMShape
from model.training.branch_cost import BranchCost, measure_branches, without_branches
from model.training.schedule import Schedule
from model.training.train_prior import TrainPriorConfig, train_prior

SIZES = {"width": 32, "hidden": 64, "num_heads": 2, "dropout": 0.2}
NOBLE = NobleShape(rank=4)
PARTI = PartiShape(
    text_vocabulary_size=32, codebook_size=64, grid_side=4, num_encoder_layers=1, num_decoder_layers=2, noble=NOBLE,
    **SIZES,
)  # fmt: skip
VIM_SHAPE = VIMShape(codebook_size=64, grid_side=4, num_layers=2, noble=NOBLE, **SIZES)
TEXT_IDS, TOKENS = torch.full((3, 5), 7), torch.zeros(3, 16, dtype=torch.long)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("kind", "shape", "condition"), [(Parti, PARTI, TEXT_IDS), (VIM, VIM_SHAPE, TEXT_IDS[:, :0])], ids=["parti", "vim"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_branches_cost_what_a_plain_network_lacks_and_the_network_stays_as_it_was(kind, shape, condition, dtype):
    network = kind(shape)
    before, luck = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    cost = measure_branches(network, condition, TOKENS, dtype, is_compiled=False)
    assert torch.equal(torch.get_rng_state(), luck)
    assert cost
    assert (cost.parameters, cost.parameters_without) == (count(network), count(kind(replace(shape, noble=None))))
    assert 0 < cost.block_s_without < 10
    assert 0 < cost.block_s < 10
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_a_network_without_branches_has_no_cost():
    assert measure_branches(Parti(replace(PARTI, noble=None)), TEXT_IDS, TOKENS, torch.float32, False) is None


def test_a_block_without_branches_is_the_plain_one():
    noble, plain = (Parti(replace(PARTI, noble=noble)).decoder[-1].eval() for noble in (NOBLE, None))
    stripped = without_branches(noble)
    plain.load_state_dict(stripped.state_dict())
    x, context = torch.randn(2, 16, 32), torch.randn(2, 5, 32)
    assert torch.equal(stripped(x, context=context), plain(x, context=context))
    assert not torch.equal(noble(x, context=context), plain(x, context=context))


def test_a_cost_is_told_as_shares():
    cost = BranchCost(1_096, 1_000, 0.0252, 0.021)
    assert cost.line() == (
        "noble: 1,096 parameters, 1,000 without branches (+9.6 %); the last block takes 25.2 ms forward and backward, "
        "21 ms without (+20.0 %)"
    )
    assert cost.told() == {"parameters_without": 1_000, "block_ms": 25.2, "block_ms_without": 21.0}


def test_a_run_tells_what_its_branches_cost_at_its_start_and_in_its_manifest(tmp_path, tokens, capsys):
    sizes = SIZES | {"num_encoder_layers": 1, "num_decoder_layers": 1}
    runs = {}
    for name, noble in (("noble", {"noble": {"preset": "paper", "rank": 4}}), ("plain", {})):
        config = TrainPriorConfig(
            output=str(tmp_path / name), source=tokens, architecture=sizes | noble, batch_size=4,
            schedule=Schedule(num_steps=2, lr=1e-3),
        )  # fmt: skip
        runs[name] = train_prior(config).details
    (line,) = re.findall(r"^noble: ([\d,]+) parameters, ([\d,]+) without branches", capsys.readouterr().err, re.M)
    told = [int(number.replace(",", "")) for number in line]
    assert told == [runs["noble"]["parameters"], runs["plain"]["parameters"]]
    assert runs["noble"]["noble"]["parameters_without"] == runs["plain"]["parameters"]
    assert runs["noble"]["noble"]["block_ms"] > 0
    assert runs["noble"]["shape"]["noble"]["rank"] == 4
    assert "noble" not in runs["plain"]
