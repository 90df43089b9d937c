import pytest
import torch
from torch import nn

from model.noble import NobleLinear, NobleShape
from model.training.loop import Evaluation, train
from model.training.parameter_groups import lr_multipliers, parameter_groups
from model.training.schedule import Schedule

RATIO = 32 / 8
"""The smaller side of the layer over the rank."""
MULTIPLIERS = {
    "code": {"up": RATIO**0.4, "mixing": RATIO**0.5, "frequency": 2.0, "phase": 4.0},
    "paper": {"up": RATIO**0.6, "mixing": RATIO**0.45, "frequency": 3.0, "phase": 5.0},
}
LR, BETA1 = 1e-3, 0.9


class EvenGradients:
    """A layer whose loss has a gradient of 1 by every parameter."""

    num_parts, batch_size, work = 1, 1, None

    def __init__(self, model: nn.Module):
        self.model, self.networks = model, {"model": model}

    def losses(self, network, step, part):
        return {"total": sum(parameter.sum() for parameter in self.model.parameters())}

    def after_step(self, step):
        pass

    def evaluate(self, step):
        return Evaluation({}, {})

    def keys(self, step):
        return ["row"]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("preset", ["code", "paper"])
@pytest.mark.parametrize(("optimizer", "first_move"), [("adamw", LR), ("adafactor", (1 - BETA1) * LR)])
def test_parameters_of_equal_gradients_move_by_their_multipliers(preset, optimizer, first_move, tmp_path):
    """A first step of AdamW is the rate times the gradient's sign; Adafactor's is a tenth of that."""
    shape = NobleShape(**{**vars(NobleShape.PRESETS[preset]), "rank": 8})
    layer = NobleLinear(32, 48, True, shape)
    before = {name: value.detach().double() for name, value in layer.named_parameters()}
    schedule = Schedule(
        num_steps=1, lr=LR, warmup_steps=0, decay="constant", optimizer=optimizer, beta1=BETA1, weight_decay=0.0,
        clip_norm=0.0,
    )  # fmt: skip
    train(EvenGradients(layer), schedule, str(tmp_path), "x")
    moved = {}
    for name, value in layer.named_parameters():
        moves = (before[name] - value.detach().double()) / first_move
        assert moves.std() < 1e-2, name  # rounding of weights in float32
        moved[name] = moves.mean().item()
    wanted = {
        name: next((by for part, by in MULTIPLIERS[preset].items() if part in name.split(".")), 1.0) for name in before
    }
    assert moved == pytest.approx(wanted, rel=1e-2)
    assert {name for name, by in wanted.items() if by != 1} == {
        name for name in before if name.startswith("branch.") and ".down." not in name
    }


def test_weight_decay_is_of_matrices_whatever_their_rate():
    layer = NobleLinear(32, 48, True, NobleShape(rank=8))
    groups = parameter_groups(layer, LR, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(layer.parameters()))
    for group in groups:
        assert {parameter.dim() for parameter in group["params"]} == {2 if group["weight_decay"] else 1}
        assert group["weight_decay"] in (0.0, 0.1)
        assert group["lr"] == LR * group["lr_multiplier"]
    assert {group["lr_multiplier"] for group in groups if group["weight_decay"]} == {1.0, 4**0.4, 2.0}


def test_a_network_without_multipliers_has_two_groups_in_its_parameters_order():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    matrices, vectors = parameter_groups(network, LR, 0.1)
    assert [id(parameter) for parameter in matrices["params"] + vectors["params"]] == [
        id(parameter) for parameter in (network[0].weight, network[1].weight, network[0].bias, network[1].bias)
    ]


def test_a_multiplier_of_a_parameter_that_is_not_there_is_a_mistake():
    layer = nn.Linear(2, 2)
    layer.lr_multipliers = {"weigth": 2.0}
    with pytest.raises(AttributeError):
        lr_multipliers(layer)
    layer.lr_multipliers = {"weight": 2.0}
    assert lr_multipliers(layer) == {layer.weight: 2.0}


def test_a_multiplier_of_zero_leaves_what_it_is_of_as_it_began():
    told = NobleLinear(32, 32, False, NobleShape(rank=8, frequency_multiplier=0)).branch.lr_multipliers
    assert (told["first.frequency"], told["first.phase"], told["down.bias"]) == (0, 4, 1)


def test_multipliers_stay_with_a_schedule_that_warms_up_and_falls(tmp_path):
    torch.manual_seed(0)
    layer = NobleLinear(32, 32, False, NobleShape(rank=8))
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    schedule = Schedule(num_steps=4, lr=LR, warmup_steps=2, weight_decay=0.0, clip_norm=0.0)
    total = sum(schedule.lr_at(step) for step in range(4)) / LR
    assert 2 < total < 4
    train(EvenGradients(layer), schedule, str(tmp_path), "x")
    moved = {name: (before[name] - value.detach()).mean().item() / LR for name, value in layer.named_parameters()}
    assert moved["main.weight"] == pytest.approx(total, rel=1e-2)
    assert moved["branch.second.phase"] == pytest.approx(4 * total, rel=1e-2)
