import re
from importlib import import_module
from pathlib import Path

import pytest

from parti_data.config import StageConfig
from parti_data.storage import digest_json

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))
STAGES = {
    "filter": ("pipelines.filter", "FilterConfig"),
    "shard": ("pipelines.shard", "ShardConfig"),
    "tokenize": ("pipelines.tokenize", "TokenizeConfig"),
    "export": ("pipelines.export", "ExportConfig"),
    "import-tokens": ("pipelines.import_tokens", "ImportTokensConfig"),
    "train text": ("model.training.train_text", "TrainTextConfig"),
    "train tokenizer": ("model.training.train_tokenizer", "TrainTokenizerConfig"),
    "train dvae": ("model.training.train_dvae", "TrainDVAEConfig"),
    "train palette": ("model.training.train_palette", "TrainPaletteConfig"),
    "train upsampler": ("model.training.train_upsampler", "TrainUpsamplerConfig"),
    "train text-encoder": ("model.training.train_text_encoder", "TrainTextEncoderConfig"),
    "train contrastive": ("model.training.train_contrastive", "TrainContrastiveConfig"),
    "train prior": ("model.training.train_prior", "TrainPriorConfig"),
    "sample": ("model.sampling.sample", "SampleConfig"),
    "evaluate": ("model.evaluation.evaluate", "EvaluateConfig"),
    "evaluate probe": ("model.evaluation.probe", "ProbeConfig"),
    "demo": ("pipelines.demo", "DemoConfig"),
}


def command_of(path: Path) -> list[str]:
    line = path.read_text().splitlines()[1]
    assert line.startswith("# Command:"), line
    return line.removeprefix("# Command:").partition("(")[0].split()


def load(path: Path) -> StageConfig:
    """The config as the command in its header would load it."""
    program, *words = command_of(path)
    assert program == "parti"
    place = str(path.relative_to(ROOT))
    stage, arguments = " ".join(words[: words.index(place)]), words[words.index(place) + 1 :]
    module, name = STAGES[stage]
    return getattr(import_module(module), name).load(str(path), arguments)


def test_there_are_configs_to_look_at():
    assert len(CONFIGS) > 10


def test_pixels_fed_in_another_range_than_trained_on_are_not_taken_for_a_mixup():
    paths = [path for path in (ROOT / "configs/tokenize").glob("*.toml") if 'pixel_range = "unit"' in path.read_text()]
    assert paths
    assert not any(load(path).quality.refuse_mixups for path in paths)  # type: ignore[attr-defined]


def test_the_readme_gives_fewer_rows_of_a_picture_than_the_demo_s_images_have():
    rows = re.findall(r"configs/demo/complete.toml .*completion.rows=(\d+)", (ROOT / "README.md").read_text())
    shape = load(ROOT / "configs/demo/tokenizer.toml").architecture  # type: ignore[attr-defined]
    assert rows
    assert int(rows[0]) < shape["image_side"] // shape["patch_side"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_opens_with_what_it_is_for_and_loads_by_its_own_command(path):
    heads = [line.partition(":")[0] for line in path.read_text().splitlines()[:4]]
    assert heads == ["# For", "# Command", "# Takes", "# Expect"]
    config = load(path)
    assert config.output.startswith("runs/")
    assert len(digest_json(config.deciding())) == 64
