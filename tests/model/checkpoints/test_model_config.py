"""Configs beside checkpoints: plain values, whatever they try."""

import json
from pathlib import Path

import pytest

from model.checkpoints import read_model_config
from parti_data.errors import CheckpointError

CONFIG = {
    "model": {"params": {"embed_dim": 256, "ddconfig": {"ch_mult": [1, 1, 2], "double_z": False, "dropout": 0.0}}}
}
YAML = """
# a comment
model:
  target: taming.models.vqgan.VQModel
  params: {embed_dim: 256, ddconfig: {ch_mult: [1, 1, 2]}}
"""
HOSTILE = {
    "python": (b"a: !!python/object/apply:os.system ['touch marker']", "could not determine a constructor for the tag"),
    "alias": (b"a: &a [1]\nb: *a", "found an alias; mend it"),
    "not closed": (b"a: [1", "while parsing a flow sequence"),
    "deep": (b"[" * 5000, "found maximum recursion depth exceeded"),
    "deep json": (b'{"a":' * 30000, "found maximum recursion depth exceeded"),
    "no text": (b"\xff\xfe\xfa", "'utf-8' codec can't decode"),
    "empty int": (b'a: !!int ""', "found a value that is not what its tag says; mend it"),
    "empty float": (b'a: !!float ""', "found a value that is not what its tag says"),
    "no bool": (b"a: !!bool x", "found a value that is not what its tag says"),
    "no time": (b"a: !!timestamp x", "found a value that is not what its tag says"),
    "long number": (b"a: " + b"9" * 5000, "Exceeds the limit"),
}


def test_yaml_and_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(json.dumps(CONFIG))
    assert read_model_config(str(path)) == CONFIG
    path.write_text("{a: 1, b: [x]}")
    assert read_model_config(str(path)) == {"a": 1, "b": ["x"]}
    path.write_text(YAML)
    params = {"embed_dim": 256, "ddconfig": {"ch_mult": [1, 1, 2]}}
    assert read_model_config(str(path)) == {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[name]
    (tmp_path / "config").write_bytes(content)
    with pytest.raises(CheckpointError, match="config: expected YAML or JSON of plain values, found ") as found:
        read_model_config(str(tmp_path / "config"))
    assert message in str(found.value)
    assert not (tmp_path / "marker").exists()


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config"
    with pytest.raises(CheckpointError, match="expected a model's config, found no file; check the path"):
        read_model_config(str(path))
    path.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="expected a mapping, found list; give the model's config"):
        read_model_config(str(path))
    path.write_bytes(b" " * (1 << 19))
    with pytest.raises(
        CheckpointError, match="expected a model's config of at most 262144 bytes, found 524288 bytes; ch"
    ):
        read_model_config(str(path))
    with pytest.raises(CheckpointError, match="of at most 262144 bytes, found no regular file; check the path"):
        read_model_config(str(tmp_path))
