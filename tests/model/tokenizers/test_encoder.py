import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from model.tokenizers import RECORD, Execution, ImageTokenizer, encoder
from model.tokenizers.encoder import make_encoder, refuse_missing
from model.tokenizers.families.convolutional import ConvolutionalShape
from model.tokenizers.families.vqgan import VQGAN, Autoencoder, Use
from model.tokenizers.network import TokenizerNetwork
from model.tokenizers.openvino_encoder import can_bfloat16
from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape
from parti_data.errors import TokenizerError

BF16 = Execution(precision="bfloat16")
OPENVINO = Execution(backend="openvino")
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
needs_openvino_bf16 = pytest.mark.skipif(
    not (HAS_OPENVINO and can_bfloat16()), reason="openvino cannot do bfloat16 on this processor"
)


def vit() -> ViTVQGAN:
    """The paper's width, one layer, 32 px in 256 positions."""
    size = TransformerSize(num_layers=1, num_heads=8, width=512, hidden=2048)
    return ViTVQGAN(ViTVQGANShape(image_side=32, patch_side=2, encoder=size, decoder=size, codebook_size=256))


def vqgan() -> VQGAN:
    """VQ-16's width, one block a level, 32 px in 256 positions."""
    shape = ConvolutionalShape(
        first_width=128, widths=(128, 256), num_blocks=1, attention_levels=(1,), z_width=256, code_width=8,
        codebook_size=512,
    )  # fmt: skip
    return VQGAN(Autoencoder(shape, "cosine"), shape, Use("llamagen", "cosine", 32, "symmetric", "adm"))


@pytest.fixture(scope="module", params=[vit, vqgan])
def network(request) -> TokenizerNetwork:
    torch.manual_seed(0)
    return request.param().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)


def plain_tokens(network: TokenizerNetwork, images: np.ndarray) -> Tensor:
    """What the network gives as it is, an image at a time."""
    with torch.enable_grad():  # so that nothing takes the ways that are only for encoding
        inputs = network.to_input(torch.from_numpy(images))
        return torch.cat([network.quantize(network.latents(one[None])) for one in inputs])


def test_tokens_are_those_of_the_network_as_it_is(network, images):
    tokenizer = ImageTokenizer(network)
    tokenizer.batch_size = 8
    tokens = tokenizer.encode(images[:8])
    assert torch.equal(tokens, plain_tokens(network, images[:8]))
    assert len(tokens.unique()) > 50


def test_tokens_do_not_depend_on_batch_threads_or_order(network, images):
    tokenizer, threads = ImageTokenizer(network), torch.get_num_threads()
    assert tokenizer.batch_size == 64
    tokenizer.batch_size = len(images)  # a slow processor takes a second for each
    whole = tokenizer.encode(images)
    for tokenizer.batch_size, first, last in ((1, 10, 12), (5, 20, 27)):
        assert torch.equal(tokenizer.encode(images[first:last]), whole[first:last])
        assert torch.equal(tokenizer.encode(images[first:last][::-1].copy()), whole[first:last].flip(0))
    try:
        torch.set_num_threads(2)
        assert torch.equal(tokenizer.encode(images[:5]), whole[:5])
    finally:
        torch.set_num_threads(threads)


@needs_openvino
def test_openvino_gives_the_same_tokens_on_any_thread(network, images):
    tokenizer, record = ImageTokenizer(network, OPENVINO), ImageTokenizer(network)
    tokenizer.batch_size = record.batch_size = 8
    expected = record.encode(images[:24])
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda start: tokenizer.encode(images[start : start + 8]), (0, 8, 16)):
            assert torch.equal(found, expected[:8])
            expected = expected[8:]


CONVERT_WITHOUT_A_NET = """
import socket, sys
def refuse(event, arguments):
    if event.startswith("socket."):
        print(event, arguments)
        raise OSError(event)
sys.addaudithook(refuse)
import torch
from model.tokenizers.openvino_encoder import OpenVinoEncoder
encoder = OpenVinoEncoder(torch.nn.Linear(4, 4), "float32")
print(tuple(encoder(torch.zeros(1, 4)).shape))
from openvino.tools.ovc import convert_impl, telemetry_stub, telemetry_utils
assert convert_impl.tm is telemetry_utils.tm is telemetry_stub
"""


@needs_openvino
def test_openvino_tells_nobody_of_a_conversion(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", CONVERT_WITHOUT_A_NET], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout, list(tmp_path.iterdir())) == (0, "(1, 4)\n", []), ran.stderr


def test_openvino_that_is_not_there_is_refused(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(TokenizerError, match=r"execution.backend=openvino: expected OpenVINO where images are enc"):
        ImageTokenizer(network, OPENVINO)


@needs_openvino
def test_openvino_on_a_processor_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(encoder, "can_bfloat16", lambda: False)
    with pytest.raises(TokenizerError, match=r"bfloat16: expected a processor that OpenVINO can do"):
        refuse_missing(Execution(backend="openvino", precision="bfloat16"))


@pytest.mark.parametrize(
    "execution", [BF16, pytest.param(Execution(backend="openvino", precision="bfloat16"), marks=needs_openvino_bf16)]
)
def test_bf16_is_used_for_the_encoder_and_never_for_the_quantizer(network, images, execution, monkeypatch):
    seen: list[Tensor] = []
    quantize = network.quantize

    def look(latents: Tensor) -> Tensor:
        seen.append(latents)
        return quantize(latents)

    monkeypatch.setattr(network, "quantize", look)
    tokenizer = ImageTokenizer(network, execution)
    tokenizer.batch_size = 1
    tokenizer.encode(images[:1])
    with torch.no_grad():
        exact = make_encoder(network, RECORD)(network.to_input(torch.from_numpy(images[:1])))
    assert {latents.dtype for latents in seen} == {torch.float32}
    assert {tensor.dtype for tensor in network.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    difference = (seen[0] - exact).abs().max() / exact.abs().max()
    assert 1e-5 < difference < 0.1


def test_the_decoder_is_not_copied(network):
    copied = {id(tensor) for tensor in make_encoder(network, BF16).network.parameters()}
    for name, tensor in network.named_parameters():
        assert (id(tensor) in copied) == (not network.decides_token(name)), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_float32_on_a_gpu_gives_the_record(network, images, compiled):
    record = ImageTokenizer(network).encode(images)
    torch.backends.cuda.matmul.allow_tf32 = True
    found = ImageTokenizer(network, Execution(device="cuda", compile=compiled)).encode(images)
    assert (found != record).float().mean() < 1e-3
