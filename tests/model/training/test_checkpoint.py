"""Checkpoints that are not what this run left: each is refused, and none runs code or fills the memory."""

import json
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from model.training.checkpoint import CHECKPOINTS, Checkpoints, Progress
from model.training.checkpoint_files import INDEX, CheckpointWriter
from model.training.ranks import Ranks
from parti_data.errors import CheckpointError, ShardError

STEP = "step-00000007"
SHARES = "rank-00000.safetensors"


class Extra:
    """What a job keeps beside its networks."""

    def __init__(self):
        self.state = {"counts": torch.zeros(3, dtype=torch.int64), "deep": {"share": 0.5, "names": []}}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def parts(seed: int) -> dict:
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    return {"network": network, "network_optimizer": optimizer, "extra": Extra()}


def trained(seed: int = 1) -> dict:
    made = parts(seed)
    made["network"](torch.ones(1, 3)).sum().backward()
    made["network_optimizer"].step()
    made["extra"].state = {"counts": torch.tensor([1, 2, 3]), "deep": {"share": 1 / 3, "names": ["a"]}}
    return made


def saved(directory: Path, *steps: int, kept: int = 2) -> dict:
    made = trained()
    with Checkpoints(str(directory), Ranks(), kept) as checkpoints:
        for step in steps or (7,):
            checkpoints.save(made, Progress(step, [{"step": step, "total": 0.1}], {"seldom": 2.5}))
    return made


def resumed(directory: Path) -> tuple[dict, Progress]:
    made = parts(2)
    with Checkpoints(str(directory), Ranks(), 2) as checkpoints:
        progress = checkpoints.resume(made)
    return made, progress


def test_what_was_saved_is_there_again(tmp_path):
    wanted = saved(tmp_path)
    found, progress = resumed(tmp_path)
    assert progress == Progress(7, [{"step": 7, "total": 0.1}], {"seldom": 2.5})
    for mine, other in zip(found["network"].parameters(), wanted["network"].parameters(), strict=True):
        assert torch.equal(mine, other)
        states = found["network_optimizer"].state[mine], wanted["network_optimizer"].state[other]
        assert states[0].keys() == states[1].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert found["extra"].state["deep"] == {"share": 1 / 3, "names": ["a"]}
    assert found["extra"].state["counts"].tolist() == [1, 2, 3]


def test_the_last_are_kept_and_one_without_an_index_is_none(tmp_path):
    saved(tmp_path, 7, 9, 11, 12)
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == ["step-00000011", "step-00000012"]
    (tmp_path / CHECKPOINTS / "step-00000012" / INDEX).unlink()
    assert resumed(tmp_path)[1].step == 11
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000011"]


def test_a_copy_is_written_so_that_the_run_may_go_on(tmp_path, monkeypatch):
    """The run changes its weights before the first of them is written."""
    wanted, made, changed = trained(), trained(), threading.Event()
    write_data = CheckpointWriter.write_data

    def wait_and_write(*arguments):
        assert changed.wait(60)
        return write_data(*arguments)

    monkeypatch.setattr(CheckpointWriter, "write_data", wait_and_write)
    with Checkpoints(str(tmp_path), Ranks(), 2) as checkpoints:
        checkpoints.save(made, Progress(7))
        made["network"].weight.data.zero_()
        changed.set()
    found, _ = resumed(tmp_path)
    assert torch.equal(found["network"].weight, wanted["network"].weight)


def test_what_goes_wrong_while_it_is_written_is_told(tmp_path, monkeypatch):
    def no_room(path, content):
        raise ShardError("expected room on the disk, found none left")

    monkeypatch.setattr("model.training.checkpoint_files.publish_bytes", no_room)
    with pytest.raises(ShardError, match="found none left"):
        saved(tmp_path)


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


WEIGHT = "network.weight"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda index: index.update(step=-1), "1 validation error"),
        (lambda index: index.update(more=1), "1 validation error"),
        (lambda index: index["tensors"].pop(WEIGHT), "another network.weight"),
        (lambda index: index["tensors"].update(other=index["tensors"][WEIGHT]), "another other"),
        (lambda index: index["tensors"][WEIGHT].update(dtype="float64"), "another network.weight"),
        (lambda index: index["tensors"][WEIGHT].update(size=[1 << 40, 1 << 40]), "another network.weight"),
        (lambda index: index["tensors"][WEIGHT]["chunks"].clear(), "another network.weight"),
        (lambda index: index["tensors"][WEIGHT]["chunks"][0].update(file="../../x"), "1 validation error"),
        (lambda index: index["tensors"][WEIGHT]["chunks"][0].update(offsets=[]), "another network.weight"),
        (lambda index: index["tensors"][WEIGHT]["chunks"][0].update(file="rank-00009.safetensors"), "No such file"),
        (lambda index: index["tensors"]["network_optimizer.0.exp_avg"].update(size=[1 << 60, 2]), "another network_op"),
        (lambda index: index["tensors"]["network_optimizer.0.exp_avg"].update(dtype="object"), "a tensor of 'object'"),
        (lambda index: index["tensors"]["network_optimizer.0.step"].update(size=[1 << 60]), "another network_optim"),
    ],
)
def test_an_index_that_does_not_fit_the_run_is_refused(tmp_path, change, found):
    saved(tmp_path)
    change_index(tmp_path / CHECKPOINTS / STEP, change)
    with pytest.raises(
        CheckpointError, match=rf"{STEP}: expected this run's checkpoint, found {found}.*; remove it to"
    ):
        resumed(tmp_path)


@pytest.mark.parametrize("content", [b"nonsense", b""])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    saved(tmp_path)
    (tmp_path / CHECKPOINTS / STEP / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match="expected this run's checkpoint, found 1 validation error"):
        resumed(tmp_path)


def test_an_index_too_large_to_be_one_is_not_read(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr("model.training.checkpoint_files._LARGEST_INDEX_BYTES", 10)
    with pytest.raises(CheckpointError, match=r"found an index of \d+ bytes"):
        resumed(tmp_path)


@pytest.mark.parametrize("wrong", [{WEIGHT: torch.zeros(2, 2)}, {WEIGHT: torch.zeros(2, 3, dtype=torch.int32)}, {}])
def test_tensors_other_than_the_index_says_are_refused(tmp_path, wrong):
    saved(tmp_path)
    path = tmp_path / CHECKPOINTS / STEP / SHARES
    tensors = {name: tensor for name, tensor in safetensors.torch.load_file(path).items() if name != WEIGHT}
    safetensors.torch.save_file(tensors | wrong, path)
    with pytest.raises(CheckpointError, match="expected this run's checkpoint, found .*network.weight"):
        resumed(tmp_path)


def test_a_checkpoint_runs_nobodys_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    saved(tmp_path)
    torch.save({WEIGHT: Evil()}, tmp_path / CHECKPOINTS / STEP / SHARES)
    with pytest.raises(CheckpointError, match="expected this run's checkpoint, found"):
        resumed(tmp_path)
    assert not (tmp_path / "owned").exists()
