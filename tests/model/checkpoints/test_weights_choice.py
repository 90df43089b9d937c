"""Which set of weights is taken, and under which names."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints import open_checkpoint, stored_names
from parti_data.errors import CheckpointError


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"encoder.conv.weight": torch.full((2,), float(value)), "quantize.weight": torch.full((1,), float(value))}


def opened(tmp_path: Path, saved: Any, **options: str) -> dict[str, Any]:
    torch.save(saved, tmp_path / "a.pt")
    return {
        name: tensor.tolist() for name, tensor in open_checkpoint(str(tmp_path / "a.pt"), **options).tensors.items()
    }


LLAMAGEN = {
    "state_dict": weights(3),
    "model": weights(2),
    "ema": weights(1),
    "optimizer": {"state": {0: torch.ones(1)}},
}


@pytest.mark.parametrize(
    ("saved", "first"),
    [
        (LLAMAGEN, 1),
        ({name: LLAMAGEN[name] for name in ("state_dict", "model", "optimizer")}, 2),
        ({"ema": None, "state_dict": weights(3), "step": torch.tensor(7)}, 3),
        ({"ema": {}, "model": weights(2)}, 2),
        (weights(4), 4),
    ],
)
def test_averages_come_before_the_model_before_a_state_dict(tmp_path: Path, saved: Any, first: int) -> None:
    assert opened(tmp_path, saved) == {"encoder.conv.weight": [first] * 2, "quantize.weight": [first]}


def test_weights_are_chosen_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(("ema", "model", "state_dict"), start=1):
        assert opened(tmp_path, LLAMAGEN, weights=name)["quantize.weight"] == [number]
    assert opened(tmp_path, {"net": weights(5), "epoch": 1}, weights="net")["quantize.weight"] == [5]


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    message = (
        r"a\.pt: expected weights 'net', found state_dict, model, ema; choose one of those, or none for the default"
    )
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, LLAMAGEN, weights="net")
    for name in ("ema", "net"):
        with pytest.raises(CheckpointError, match=f"expected weights '{name}', found none by name; choose"):
            opened(tmp_path, weights(1), weights=name)


def test_without_a_known_name_all_tensors_are_taken(tmp_path: Path) -> None:
    assert opened(tmp_path, {"a": {"b": {"w": torch.ones(1)}}, "c": torch.ones(1), "d": 7}) == {"a.b.w": [1], "c": [1]}


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected one tensor a.w, found two; download it again"):
        opened(tmp_path, {"a.w": torch.ones(1), "a": {"w": torch.ones(1)}})


AVERAGED = {
    "state_dict": weights(1) | {"loss.w": torch.ones(1), "model_ema.decay": torch.ones(1)}
    | {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in weights(2).items()},
    "callbacks": {},
}  # fmt: skip


def test_averages_of_a_lightning_file_get_their_names_back(tmp_path: Path) -> None:
    found = opened(tmp_path, AVERAGED, weights="ema")
    assert found == {"encoder.conv.weight": [2, 2], "quantize.weight": [2], "loss.w": [1]}
    assert opened(tmp_path, AVERAGED)["encoder.conv.weight"] == [1, 1]
    alike = AVERAGED["state_dict"] | {"encoderconv.weight": torch.ones(1)}
    with pytest.raises(
        CheckpointError, match="expected names that differ without their dots, found two alike; choose ot"
    ):
        opened(tmp_path, alike, weights="ema")


def test_names_are_told_without_reading_a_tensor(tmp_path: Path) -> None:
    torch.save(AVERAGED, tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content.replace(struct.pack("<ff", 1, 1), b"12345678"))
    assert stored_names(str(tmp_path / "a"), "ema") == ["encoder.conv.weight", "quantize.weight", "loss.w"]
    assert stored_names(str(tmp_path / "a")) == list(AVERAGED["state_dict"])
    with pytest.raises(CheckpointError, match="Bad CRC-32"):
        open_checkpoint(str(tmp_path / "a"))


@pytest.mark.parametrize("is_torch", [True, False])
def test_of_a_prefix_only_its_tensors_are_read(tmp_path: Path, is_torch: bool) -> None:
    saved = {"gen_vision_model.encoder.w": torch.ones(2), "language.w": torch.full((3,), 7.5)}
    path = str(tmp_path / "a")
    torch.save(saved, path) if is_torch else save_file(saved, path)
    if is_torch:  # the other storage is broken, and not looked at
        content = Path(path).read_bytes()
        Path(path).write_bytes(content.replace(struct.pack("<f", 7.5), b"1234", 1))
        with pytest.raises(CheckpointError, match="Bad CRC-32"):
            open_checkpoint(path)
    found = open_checkpoint(path, prefix="gen_vision_model.").tensors
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"encoder.w": [1, 1]}
    message = r"expected tensors called vision\.\*, found gen_vision_model\., language\.; choose one of those prefixes"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path, prefix="vision.")
