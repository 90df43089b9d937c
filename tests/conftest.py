"""Small data that many tests share: one run of every stage, made once by each process that runs tests."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from local_stores import gcs_server, s3, s3_server, store  # noqa: F401

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many processes as cores run the tests: more would be in the way
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = (
    "false"  # gcsfs reads it when imported, and asks for what no emulator knows
)
ONE_WORKER = "--direct_num_workers=1"
PRELOADED = [
    "pytest", "model.training.train_prior", "pipelines.export", "pipelines.filter", "pipelines.forget",
    "pipelines.import_tokens", "pipelines.shard", "pipelines.tokenize",
]  # fmt: skip
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that lies beside the checkout on some machines."""
    if not SHARED.is_dir():
        pytest.skip("the shared reference data is not there")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> None:
    """A cache of the tests' own, for the processes that they start too."""
    os.environ["PARTI_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Processes that are forked from one that has imported all, so that each starts at once.

    For all tests: Python has one such server, which imports what it was told before it started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> str:
    """The wheel of this checkout, built from a copy: what a build left behind must not get into it."""
    import shutil
    import subprocess
    import sys

    folder, root = tmp_path_factory.mktemp("wheel"), Path(__file__).parents[1]
    for name in ("parti_data", "model", "pipelines", "configs"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=dist", "."]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").iterdir()
    return str(built)


@pytest.fixture(scope="session")
def beam_options() -> Callable:
    """Beam's options from arguments; one worker unless told."""
    from pipelines.runner import parse_options

    return lambda *arguments: parse_options(list(arguments) or [ONE_WORKER])


@pytest.fixture(scope="session")
def contents() -> Callable[[object], dict[str, bytes]]:
    """Every file under a directory, by its relative name, but for the one that tells the time of its run."""
    from parti_data.metrics import METRICS

    def read(directory: object) -> dict[str, bytes]:
        root = Path(str(directory))
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != METRICS]
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    return read


@pytest.fixture(scope="session")
def synthetic():
    """96 scenes of 32 px in three splits, every fourth row spoiled: each of the eight kinds three times."""
    from parti_data.sources import SyntheticSource

    return SyntheticSource(num_pairs=96, side_px=32, spoil_every=4, pairs_per_split=32)


@pytest.fixture(scope="session")
def filtered(tmp_path_factory, synthetic, beam_options) -> str:
    """The finished filter directory of `synthetic`."""
    from pipelines.filter import FilterConfig, filter_pairs

    output = str(tmp_path_factory.mktemp("shared") / "pairs")
    filter_pairs(FilterConfig(output=output, source=synthetic), beam_options())
    return output


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, filtered, beam_options) -> str:
    """The finished shard directory of `filtered`, in tars of at most 20 pairs."""
    from pipelines.shard import ShardConfig, shard_pairs

    output = str(tmp_path_factory.mktemp("shared") / "shards")
    shard_pairs(ShardConfig(output=output, source=filtered, pairs_per_shard=20), beam_options())
    return output


@pytest.fixture(scope="session")
def text_file(tmp_path_factory, filtered) -> str:
    """A SentencePiece model of the captions of `filtered`."""
    from parti_data.ledger import PairDirectory
    from parti_data.text import train_sentencepiece

    captions = (caption for row in PairDirectory(filtered).kept() for caption in row.captions)
    path = tmp_path_factory.mktemp("shared") / "text.model"
    path.write_bytes(train_sentencepiece(captions, 128, 0))
    return str(path)


@pytest.fixture(scope="session")
def make_image_file() -> Callable[[Path, int], str]:
    """Write an untrained image tokenizer of a seed: 32 px, 16 tokens an image, 64 codes."""
    import torch

    from model.tokenizers import save_tokenizer
    from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape

    shape = ViTVQGANShape(
        image_side=32, patch_side=8, codebook_size=64, code_width=8, positions="rotary",
        encoder=TransformerSize(num_layers=1, num_heads=2, width=32, hidden=64),
        decoder=TransformerSize(num_layers=2, num_heads=2, width=32, hidden=64),
    )  # fmt: skip

    def make(path: Path, seed: int) -> str:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_tokenizer(ViTVQGAN(shape), str(path))
        return str(path)

    return make


@pytest.fixture(scope="session")
def image_file(tmp_path_factory, make_image_file) -> str:
    """An image tokenizer's file."""
    return make_image_file(tmp_path_factory.mktemp("shared") / "tokenizer.safetensors", 0)


@pytest.fixture(scope="session")
def make_tokenize_config(filtered, image_file, text_file) -> Callable:
    """The config that tokenizes `filtered` into three shards from three fragments, by an untrained tokenizer whose
    pictures are not judged; overrides by name."""
    from pipelines.tokenize import TokenizeConfig

    def make(output: object, **overrides):
        values = {"source": filtered, "image_tokenizer": image_file, "text_tokenizer": text_file}
        sizes = {"rows_per_shard": 25, "rows_per_fragment": 30, "quality": {"sample": 2, "min_psnr_db": 0.0}}
        return TokenizeConfig(output=str(output), **{**values, **sizes, **overrides})

    return make


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, make_tokenize_config, beam_options) -> str:
    """The finished tokenize directory of `filtered`."""
    from pipelines.tokenize import tokenize_pairs

    output = str(tmp_path_factory.mktemp("shared") / "tokens")
    tokenize_pairs(make_tokenize_config(output), beam_options())
    return output


@pytest.fixture(scope="session")
def exported(tmp_path_factory, tokens, beam_options) -> str:
    """The finished export directory of `tokens`, WebDataset tars."""
    from pipelines.export import ExportConfig, export_tokens

    output = str(tmp_path_factory.mktemp("shared") / "exported")
    export_tokens(ExportConfig(output=output, source=tokens, format="webdataset"), beam_options())
    return output


@pytest.fixture(scope="session")
def make_config(synthetic, filtered, tokens, make_tokenize_config) -> Callable:
    """The config of a stage, by its name."""
    from pipelines.export import ExportConfig
    from pipelines.filter import FilterConfig
    from pipelines.shard import ShardConfig

    configs = {
        "filter": lambda output: FilterConfig(output=str(output), source=synthetic),
        "shard": lambda output: ShardConfig(output=str(output), source=filtered, pairs_per_shard=20),
        "tokenize": make_tokenize_config,
        "export": lambda output: ExportConfig(output=str(output), source=tokens, format="webdataset"),
    }
    return lambda stage, output, **changes: configs[stage](output).model_copy(update=changes)


@pytest.fixture(scope="session")
def run_stage(beam_options) -> Callable:
    """Run the stage of a config with Beam's arguments."""
    from pipelines.export import ExportConfig, export_tokens
    from pipelines.filter import FilterConfig, filter_pairs
    from pipelines.shard import ShardConfig, shard_pairs
    from pipelines.tokenize import TokenizeConfig, tokenize_pairs

    jobs = {
        FilterConfig: filter_pairs,
        ShardConfig: shard_pairs,
        TokenizeConfig: tokenize_pairs,
        ExportConfig: export_tokens,
    }
    return lambda config, *arguments: jobs[type(config)](config, beam_options(*arguments))


@pytest.fixture(scope="session")
def metrics() -> Callable[[object], list[dict]]:
    """The lines of a training run's metrics, by its directory."""
    import json

    return lambda directory: [
        json.loads(line) for line in Path(str(directory), "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture
def make_tar(tmp_path) -> Callable[..., str]:
    """Write a tar of (member name, bytes) and return its path."""
    import io
    import tarfile

    def make(name: str, members: list[tuple[str, bytes]]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, errors="surrogateescape") as tar:
            for member_name, content in members:
                member = tarfile.TarInfo(member_name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return str(path)

    return make


@pytest.fixture(scope="session")
def plain_png() -> Callable[[int], bytes]:
    """A 32 px picture of one grey value, as a PNG."""
    import numpy as np

    from parti_data.images import to_png

    return lambda value: to_png(np.full((32, 32, 3), value, np.uint8))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser, where one is installed: one for all tests of a module."""
    from browser import Browser, find_chromium

    executable = find_chromium()
    if executable is None:
        pytest.skip("Chromium is not installed")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium):
    """The same, without the problems of the test before."""
    chromium.problems.clear()
    return chromium
