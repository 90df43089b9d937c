from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.priors.prior import drop_condition
from model.priors.prior_file import load_prior, save_prior
from model.priors.vim import VIM, VIMShape
from model.weights import write_weights
from parti_data.errors import CheckpointError, ConfigError

CLASSES = ("bird", "cat", "dog")
PLAIN = VIMShape(codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2, num_layers=2, dropout=0.0)
TOLD = replace(PLAIN, class_conditional=True, classes=CLASSES)
TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[PLAIN, TOLD], ids=["unconditional", "of classes"])
def model(request):
    torch.manual_seed(0)
    return VIM(request.param).eval()


def condition_of(model: VIM) -> torch.Tensor:
    return model.condition(["dog", "bird"], torch.zeros(2, 3, dtype=torch.long))


def test_a_token_is_told_by_all_before_it_and_never_by_itself_or_the_future(model):
    model = model.double()
    inputs = model.token_embedding(TOKENS).detach().requires_grad_()
    model.token_embedding.forward = lambda before: inputs[:, : before.shape[1]]  # the Jacobian needs the embeddings
    logits = model(condition_of(model), TOKENS)
    for position in range(16):
        (gradient,) = torch.autograd.grad(logits[:, position].square().sum(), inputs, retain_graph=True)
        assert np.array_equal((gradient.abs().sum((0, 2)) > 0).numpy(), np.arange(16) < position), position


def test_cached_decoding_equals_uncached_with_positions_filled_at_once_or_not(model, compare_steps):
    compare_steps(model, condition_of(model), TOKENS)


def test_losses_are_the_mean_nll_of_an_independent_float64_network(model):
    """Written out anew: pre-norm blocks, dense causal attention, a class or start vector in front, 2D positions."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    numbers = torch.tensor([2, 0]) if model.shape.classes else torch.zeros(2, dtype=torch.long)
    x = torch.cat([weights["start.weight"][numbers][:, None], weights["token_embedding.weight"][TOKENS[:, :-1]]], 1)
    for place in range(16):
        x[:, place] += weights["row_positions"][place // 4] + weights["column_positions"][place % 4]
    for layer in range(2):
        x = block_in_float64(x, {n[len(f"decoder.{layer}.") :]: w for n, w in weights.items() if f"r.{layer}." in n})
    logits = norm(x, weights, "decoder_norm") @ weights["to_logits.weight"].T
    nll = -logits.log_softmax(-1).gather(-1, TOKENS[..., None])[..., 0]
    assert model.losses(condition_of(model), TOKENS)["total"].item() == pytest.approx(nll.mean().item(), abs=1e-5)
    torch.testing.assert_close(model.row_losses(condition_of(model), TOKENS), nll.mean(1), atol=1e-5, rtol=0)


def norm(x: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def block_in_float64(x: torch.Tensor, weights: dict) -> torch.Tensor:
    """Return what a block of two heads of 16 channels and a ReLU makes of x (B, N, 32)."""
    queries, keys, values = (norm(x, weights, "self_norm") @ weights["self_attention.to_qkv.weight"].T).chunk(3, -1)
    attended = torch.zeros_like(x)
    for image in range(len(x)):
        for head in (slice(0, 16), slice(16, 32)):
            for place in range(x.shape[1]):
                scores = keys[image, : place + 1, head] @ queries[image, place, head] / 16**0.5
                attended[image, place, head] = scores.softmax(0) @ values[image, : place + 1, head]
    x = x + attended @ weights["self_attention.to_out.weight"].T
    hidden = norm(x, weights, "feed_forward_norm") @ weights["feed_forward.0.weight"].T + weights["feed_forward.0.bias"]
    return x + hidden.clamp_min(0) @ weights["feed_forward.2.weight"].T + weights["feed_forward.2.bias"]


def test_a_class_changes_the_image_and_a_dropped_one_is_a_vector_of_its_own():
    model = VIM(TOLD).eval()
    condition = condition_of(model)
    assert condition.tolist() == [[2], [0]]
    dropped = drop_condition(model, condition, torch.tensor([False, True]))
    assert dropped.tolist() == [[2], [3]]
    assert not torch.allclose(model(condition, TOKENS)[1], model(dropped, TOKENS)[1])


def test_a_caption_that_is_no_class_is_refused():
    message = "caption: expected one of the 3 classes that training saw, found 'cats'; did you mean 'cat'"
    with pytest.raises(ConfigError, match=message):
        VIM(TOLD).condition(["cats"], torch.zeros(1, 0))


@pytest.mark.parametrize("shape", [PLAIN, TOLD])
def test_a_saved_prior_is_the_same_prior(shape, metadata, tmp_path):
    torch.manual_seed(0)
    model, path = VIM(shape).eval(), str(tmp_path / "prior.safetensors")
    save_prior(model, metadata, path)
    loaded = load_prior(path).model
    assert (loaded.shape, loaded.reads) == (shape, model.reads)
    assert torch.equal(loaded(condition_of(model), TOKENS), model(condition_of(model), TOKENS))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ["x"] * (1 << 17), "class_conditional": True}, "a header of 131072 classes"),
        ({"class_conditional": True}, "a header of 0 classes"),
        ({"grid_side": 1 << 12}, "a header of 2 layers, 1 positions before a grid side of 4096"),
        ({"num_layers": 1 << 12}, "a header of 4096 layers"),
        ({"num_heads": 1, "width": 2048}, "heads of 2048 channels"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused_before_it_takes_memory(fields, message, tmp_path):
    header = {"kind": "vim", "shape": vars(PLAIN) | fields, "image_tokenizer": "aa", "text_tokenizer": "bb"}
    write_weights(str(tmp_path / "x"), VIM(PLAIN), header)
    with pytest.raises(CheckpointError, match=message):
        load_prior(str(tmp_path / "x"))


@pytest.mark.parametrize(("width", "layers", "heads"), [(1536, 24, 16), (2048, 36, 32)])
def test_the_papers_sizes_have_twelve_squares_of_the_width_a_layer(width, layers, heads):
    """The paper's 650M and 1,697M count 11 a layer, and fit no transformer of four projections (table 2)."""
    shape = VIMShape(width=width, hidden=4 * width, num_layers=layers, num_heads=heads)
    with torch.device("meta"):
        model = VIM(shape)
    matrices = sum(parameter.numel() for parameter in model.decoder.parameters() if parameter.dim() == 2)
    assert matrices == 12 * layers * width**2


def test_gradients_reach_every_weight_that_a_batch_reads(model):
    model.losses(condition_of(model), TOKENS)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert F.normalize(parameter.grad.flatten(), dim=0).norm() > 0, name


def test_values_are_dropped_behind_attention_and_feed_forward_and_within_it():
    block = VIM(replace(PLAIN, dropout=0.1)).decoder[0]
    places = [name for name, module in block.named_modules() if isinstance(module, nn.Dropout) and module.p == 0.1]
    assert places == ["feed_forward.1.1", "dropout"]
