"""Encoders against torch as anybody would call it, and the tokenize stage against its encoder.

Ways take turns for `ROUNDS` rounds on one thread, and the median of their processor time counts. Weights are random,
codes are taken from real latents. "Plain" is the network as it is, with torch's own attention, a picture at a time.
Torch and OpenVINO are both measured; the better one is held against the goal. The stage runs once, with its gate as it
is by default, on 960 pictures: its gate takes as long as encoding 54, once a slice of 8,192.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model import layers
from model.tokenizers import Execution, ImageTokenizer, save_tokenizer
from model.tokenizers.families.convolutional import ConvolutionalShape
from model.tokenizers.families.vqgan import VQGAN, Autoencoder, Use
from model.tokenizers.network import TokenizerNetwork
from model.tokenizers.openvino_encoder import can_bfloat16
from model.tokenizers.vit_vqgan import ViTVQGAN, ViTVQGANShape
from parti_data.ledger import PairDirectory
from parti_data.quality import QualityFloors
from parti_data.recipes import apply_recipe
from parti_data.sources import WebDatasetSource
from parti_data.text import TextTokenizer, train_sentencepiece
from pipelines.encode_images import encode_rows
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.runner import parse_options
from pipelines.tokenize import TokenizeConfig, tokenize_pairs
from tests.benchmarks.photographs import make_jpegs, make_photo, write_tars
from tests.benchmarks.run import Figure

ROUNDS = 5
SIDE = 256
NUM_PICTURES, NUM_FOR_CODES = 4, 16
NUM_PEER_PAIRS, NUM_BARE, NUM_PAIRS = 4, 16, 960
LIBRARIES = ("torch", "openvino")
MATRICES = ((1024, 512, 2048), (4096, 512, 2048), (1024, 2048, 512))
"""Rows, inputs and outputs of the products whose best rate is the core's."""
VQ_16 = ConvolutionalShape(
    first_width=128, widths=(128, 128, 256, 256, 512), num_blocks=2, attention_levels=(4,), z_width=256, code_width=8,
    codebook_size=16_384,
)  # fmt: skip
FP32, BF16 = Execution(), Execution(precision="bfloat16")
OPENVINO, OPENVINO_BF16 = (way.model_copy(update={"backend": "openvino"}) for way in (FP32, BF16))


def figures() -> Iterator[Figure]:
    torch.set_num_threads(1)
    network = make_vit()
    yield from vit_small(network)
    with tempfile.TemporaryDirectory() as name:
        pairs, text = make_pairs(Path(name))
        yield from peers_way(Path(name), pairs, text)
        yield from whole_stage(Path(name), pairs, text, network)
        if torch.cuda.is_available():
            yield from on_gpu(network)


def make_vit() -> ViTVQGAN:
    """Return ViT-VQGAN-Small with codes among the latents of real pictures."""
    torch.manual_seed(0)
    network = ViTVQGAN(ViTVQGANShape()).eval().requires_grad_(False)
    with torch.no_grad():
        encoder = ImageTokenizer(network)._encoder
        latents = torch.cat([encoder(network.to_input(picture[None])) for picture in photos(0, NUM_FOR_CODES)])
        network.codebook.initialise(latents.flatten(0, 1), torch.Generator().manual_seed(0))
    return network


def photos(seed: int, count: int) -> Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([make_photo(draw, SIDE, SIDE) for _ in range(count)]))


def vit_small(network: ViTVQGAN) -> Iterator[Figure]:
    pictures = photos(1, NUM_PICTURES)
    ways = {
        "torch": ImageTokenizer(network, FP32), "torch bf16": ImageTokenizer(network, BF16),
        "openvino": ImageTokenizer(network, OPENVINO),
    }  # fmt: skip
    if can_bfloat16():
        ways["openvino bf16"] = ImageTokenizer(network, OPENVINO_BF16)
    gflop = count_gflop(network)
    one = pictures[:1]
    inputs = network.to_input(one)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: plain_latents(network, inputs)}
    runs |= {name: lambda way=way: way._encoder(inputs) for name, way in ways.items()}
    products = {f"matrices {shape}": make_product(shape) for shape in MATRICES}
    with torch.inference_mode():
        seconds = take_turns({**runs, **{name: product for name, (product, _) in products.items()}})
    rates = {name: gflop / seconds[name] for name in runs}
    peak = max(gflop_done / seconds[name] for name, (_, gflop_done) in products.items())
    say("ViT-VQGAN-Small", {name: seconds[name] for name in runs}, gflop)
    print(f"tokenizers: bf16 matrices {peak:.0f} GFLOP/s")
    record = plain_tokens(network, pictures)
    tokens = {name: way.encode(pictures) for name, way in ways.items()}
    say_differing(tokens, record)
    yield from best_of("vit_small_fp32_speed_of_plain", {name: rates[name] / rates["plain"] for name in LIBRARIES}, 2)
    for name in LIBRARIES:
        yield Figure(f"vit_small_fp32_tokens_equal_by_{name}", share_equal(tokens[name], record), 1, "more")
    bf16 = {name: rates[f"{name} bf16"] / peak for name in LIBRARIES if f"{name} bf16" in rates}
    yield from best_of("vit_small_bf16_share_of_matrices", bf16, 0.65)


def best_of(name: str, found: dict[str, float], goal: float) -> Iterator[Figure]:
    """Yield the better library's figure, and say both."""
    print(f"tokenizers: {name}: {', '.join(f'{library} {value:.3f}' for library, value in found.items())}")
    yield Figure(name, round(max(found.values()), 3), goal, "more")


def peers_way(folder: Path, source: str, text: str) -> Iterator[Figure]:
    """Yield how much faster LlamaGen's VQ-16 is by encode than by a script that writes a .npy an image."""
    torch.manual_seed(0)
    network = VQGAN(Autoencoder(VQ_16, "cosine"), VQ_16, Use("llamagen", "cosine", SIDE, "symmetric", "adm"))
    network.eval().requires_grad_(False)
    ways = {name: ImageTokenizer(network, way) for name, way in (("torch", FP32), ("openvino", OPENVINO))}
    pairs, text_tokenizer = PairDirectory(source), TextTokenizer(text)
    found: dict[str, Tensor] = {}

    def encode(name: str) -> None:
        kept = pairs.kept(0, NUM_PEER_PAIRS)
        rows = list(encode_rows(pairs, kept, ways[name], text_tokenizer))
        found[name] = torch.from_numpy(np.stack([row.image_tokens for row in rows]))

    def script() -> None:
        found["script"] = torch.cat(list(tokens_by_script(folder, pairs, network)))

    ways["torch"].encode(photos(0, 1))
    ways["openvino"].encode(photos(0, 1))
    seconds = take_turns({"script": script, **{name: lambda name=name: encode(name) for name in ways}}, rounds=3)
    each = {name: taken / NUM_PEER_PAIRS for name, taken in seconds.items()}
    say("VQ-16, JPEG to tokens", each, count_gflop(network))
    yield from best_of("vq_16_speed_of_a_script", {name: each["script"] / each[name] for name in ways}, 1.5)
    for name in ways:
        yield Figure(f"vq_16_tokens_equal_by_{name}", share_equal(found[name], found["script"]), 1, "more")


def tokens_by_script(folder: Path, pairs: PairDirectory, network: TokenizerNetwork) -> Iterator[Tensor]:
    """Yield the tokens of each image as the peers' scripts make them: one at a time, into a file of its own."""
    for row, content in pairs.fetch_each(list(pairs.kept(0, NUM_PEER_PAIRS))):
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        picture = torch.from_numpy(apply_recipe(network.spec.resize_recipe, pixels, SIDE).pixels.copy())
        with torch.inference_mode():
            tokens = network.quantize(network.latents(network.to_input(picture[None])))
        np.save(folder / f"{row.key}.npy", tokens.numpy())
        yield tokens


def whole_stage(folder: Path, source: str, text: str, network: ViTVQGAN) -> Iterator[Figure]:
    """Yield the share of the bare encoder's speed that the stage has, JPEG to published shard, its gate included."""
    image_file = str(folder / "tokenizer.safetensors")
    save_tokenizer(network, image_file)
    tokenizer = ImageTokenizer(network)
    pictures = photos(2, NUM_BARE)
    config = TokenizeConfig(
        source=source, image_tokenizer=image_file, text_tokenizer=text, output=str(folder / "tokens"),
        quality=QualityFloors(min_psnr_db=0.0, max_equal_rows=1.0),  # not judged: random weights, pictures that repeat
    )  # fmt: skip
    before = bare_seconds(tokenizer, pictures)
    started = time.process_time()
    tokenize_pairs(config, parse_options(["--direct_num_workers=1"]))
    stage_s = (time.process_time() - started) / NUM_PAIRS
    bare_s = statistics.mean((before, bare_seconds(tokenizer, pictures)))
    say("the stage, JPEG to shard", {"bare": bare_s, "stage": stage_s}, count_gflop(network))
    yield Figure("tokenize_share_of_bare_encoder", round(bare_s / stage_s, 3), 0.92, "more")


def bare_seconds(tokenizer: ImageTokenizer, pictures: Tensor) -> float:
    """Return the median seconds of processor time of a picture in memory."""
    return take_turns({"bare": lambda: tokenizer.encode(pictures)}, rounds=3)["bare"] / len(pictures)


def on_gpu(network: ViTVQGAN) -> Iterator[Figure]:
    """Yield what a GPU reaches in bf16: the bare encoder of the rate of its matrices, and of the bare encoder `encode`,
    which copies pictures there and picks codes. Neither decodes a JPEG: that is the stage's.
    """
    way = Execution(device="cuda", precision="bfloat16", compile=True)
    tokenizer = ImageTokenizer(network, way)
    inputs = tokenizer._network.to_input(photos(1, 1).expand(tokenizer.batch_size, -1, -1, -1).cuda())
    x, w = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    with torch.inference_mode():
        bare_s = gpu_seconds(lambda: tokenizer._encoder(inputs))
        matrices_s = gpu_seconds(lambda: F.linear(x, w))
    rate, peak = count_gflop(tokenizer._network) * tokenizer.batch_size / bare_s, 2 * 8192**3 / 1e9 / matrices_s
    print(f"tokenizers: on the GPU {tokenizer.batch_size / bare_s:.0f} images/s, {rate:.0f} of {peak:.0f} GFLOP/s")
    yield Figure("gpu_bf16_share_of_matrices", round(rate / peak, 3), 0.5, "more")
    many = photos(1, 8).repeat(64, 1, 1, 1)
    tokenizer.encode(many)
    started = time.perf_counter()
    tokenizer.encode(many)
    encode_rate = len(many) / (time.perf_counter() - started)
    yield Figure("gpu_encode_share_of_bare", round(encode_rate * bare_s / tokenizer.batch_size, 3), 0.9, "more")


def gpu_seconds(run: Callable[[], object], times: int = 30) -> float:
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def make_pairs(folder: Path) -> tuple[str, str]:
    """Return a filter directory of JPEGs of 500x400 and a text tokenizer."""
    tars = write_tars(folder / "photos", make_jpegs(500, 400, quality=85), NUM_PAIRS, NUM_PAIRS)
    output = str(folder / "pairs")
    source = WebDatasetSource(kind="webdataset", path=str(tars))
    filter_pairs(FilterConfig(output=output, source=source), parse_options(["--direct_num_workers=1"]))
    path = folder / "text.model"
    path.write_bytes(train_sentencepiece((f"a picture of {number} things" for number in range(400)), 64, 0))
    return output, str(path)


@contextlib.contextmanager
def torchs_attention() -> Iterator[None]:
    ours = layers.attend
    layers.attend = lambda queries, keys, values, mask: F.scaled_dot_product_attention(queries, keys, values, mask)
    try:
        yield
    finally:
        layers.attend = ours


def plain_latents(network: TokenizerNetwork, inputs: Tensor) -> Tensor:
    with torchs_attention():
        return network.latents(inputs)


def plain_tokens(network: TokenizerNetwork, pictures: Tensor) -> Tensor:
    with torch.inference_mode():
        each = (network.quantize(plain_latents(network, network.to_input(picture[None]))) for picture in pictures)
        return torch.cat(list(each))


def make_product(shape: tuple[int, int, int]) -> tuple[Callable[[], object], float]:
    """Return a run of bf16 products of about 40 GFLOP, and how many those are."""
    rows, inputs, outputs = shape
    x, w = torch.randn(rows, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    gflop = 2 * rows * inputs * outputs / 1e9
    times = round(40 / gflop)
    return lambda: [F.linear(x, w) for _ in range(times)] and None, times * gflop


def count_gflop(network: TokenizerNetwork) -> float:
    """Return the work of a picture; attention is written out for it, since torch's own is not counted on a CPU."""
    picture = photos(0, 1).to(next(network.parameters()).device)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        network.latents(network.to_input(picture))
    return counter.get_total_flops() / 1e9


def take_turns(ways: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median seconds of processor time of each way, after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            started = time.process_time()
            run()
            if turn:
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def share_equal(tokens: Tensor, record: Tensor) -> float:
    return float((tokens == record).double().mean())


def say(what: str, seconds: dict[str, float], gflop: float) -> None:
    rates = ", ".join(f"{name} {1 / taken:.2f} ({gflop / taken:.0f} GFLOP/s)" for name, taken in seconds.items())
    print(f"tokenizers: {what}, images/s of one core: {rates}", flush=True)


def say_differing(tokens: dict[str, Tensor], record: Tensor) -> None:
    shares = ", ".join(f"{name} {1 - share_equal(found, record):.2%}" for name, found in tokens.items())
    print(f"tokenizers: tokens that differ from plain float32: {shares}", flush=True)
