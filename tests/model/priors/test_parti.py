from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.masks import make_mask
from model.noble import NobleShape
from model.priors.parti import Parti, PartiShape
from model.priors.prior import drop_condition
from model.shapes import make_shape
from model.training.train_prior import TrainPriorConfig
from parti_data.text import END, PAD

CONFIGS = Path(__file__).parents[3] / "configs" / "train"
TINY = PartiShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=2, num_decoder_layers=2, dropout=0.0,
)  # fmt: skip
OPTIONS = {
    "as it is": {},
    "conv": {"image_attention": "conv", "kernel_side": 3},
    "rms": {"norm": "rms"},
    "gelu": {"feed_forward": "gelu"},
    "geglu": {"feed_forward": "geglu"},
    "swiglu": {"feed_forward": "swiglu", "biases": False},
    "qk-norm": {"qk_norm": True},
    "learned": {"positions": "learned"},
    "rotary": {"positions": "rotary"},
    "noble": {"noble": NobleShape(rank=4)},
    "all": {
        "image_attention": "conv", "kernel_side": 3, "norm": "rms", "feed_forward": "swiglu", "biases": False,
        "qk_norm": True, "positions": "rotary", "noble": NobleShape.PRESETS["paper"],
    },
}  # fmt: skip
"""Every value of every option of PartiShape."""


@pytest.fixture(params=OPTIONS)
def any_model(request):
    torch.manual_seed(0)
    return Parti(replace(TINY, **OPTIONS[request.param])).eval()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Parti(TINY).eval()


@pytest.fixture
def text_ids():
    return torch.tensor([[5, 6, 7, END, PAD, PAD], [8, 9, 10, 11, 12, END]])


def test_a_position_sees_what_its_mask_reaches_and_never_itself_or_the_future(any_model, text_ids):
    """What L layers reach is the L-th power of the mask; the input of a position is the token before it."""
    model, tokens = any_model.double(), torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    shape = model.shape
    mask = make_mask(shape.image_attention, shape.grid_side, shape.kernel_side)
    reached = np.linalg.matrix_power(mask.astype(int), shape.num_decoder_layers) > 0
    inputs = model.token_embedding(tokens).detach().requires_grad_()
    model.token_embedding.forward = lambda before: inputs[:, : before.shape[1]]  # the Jacobian needs the embeddings
    logits = model(text_ids, tokens)
    for position in range(16):
        (gradient,) = torch.autograd.grad(logits[:, position].square().sum(), inputs, retain_graph=True)
        seen = (gradient.abs().sum((0, 2)) > 0).numpy()
        assert np.array_equal(seen[:-1], reached[position, 1:]), position
        assert not seen[position:].any(), position


def test_cached_decoding_equals_uncached_with_positions_filled_at_once_or_not(any_model, text_ids, compare_steps):
    compare_steps(any_model, text_ids, torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1)))


def test_the_first_tokens_of_an_image_give_the_logits_that_the_whole_gives_there(any_model, text_ids):
    tokens = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        any_model(text_ids, tokens[:, :7]), any_model(text_ids, tokens)[:, :7], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("options", ["as it is", "conv"])
@torch.no_grad()
def test_a_step_is_compiled_once_for_all_positions(options, text_ids):
    torch.manual_seed(0)
    model = Parti(replace(TINY, num_decoder_layers=1, **OPTIONS[options])).eval()
    caches = model.make_caches(2)
    text = model.begin(text_ids, caches)
    wanted = [model.step(torch.tensor([3, 4]), torch.tensor([position]), text, caches) for position in range(16)]
    torch._dynamo.reset()
    step, caches = torch.compile(model.step, backend="eager", fullgraph=True), model.make_caches(2)
    torch.testing.assert_close(step(torch.tensor([3, 4]), torch.tensor([0]), text, caches), wanted[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for position in range(1, 16):
            found = step(torch.tensor([3, 4]), torch.tensor([position]), text, caches)
            torch.testing.assert_close(found, wanted[position])


def test_padding_changes_nothing(model):
    tokens = torch.zeros(1, 16, dtype=torch.long)
    short = model(torch.tensor([[5, 6, END]]), tokens)
    long = model(torch.tensor([[5, 6, END, PAD, PAD, PAD]]), tokens)
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)


def test_the_text_is_read_in_both_directions(model):
    tokens = torch.zeros(1, 16, dtype=torch.long)
    first = model(torch.tensor([[5, 6, 7, END]]), tokens)
    assert not torch.allclose(first, model(torch.tensor([[5, 6, 8, END]]), tokens))
    assert not torch.allclose(first, model(torch.tensor([[9, 6, 7, END]]), tokens))


def test_the_loss_is_the_mean_nll_of_image_tokens_in_float64(model, text_ids):
    tokens = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(2))
    probabilities = model(text_ids, tokens).double().softmax(-1)
    wanted = -probabilities.gather(-1, tokens[..., None]).log().mean()
    assert model.losses(text_ids, tokens)["total"].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_dropped_text_is_the_empty_text(model):
    ids = torch.tensor([[5, 6, END], [7, 8, END]])
    dropped = drop_condition(model, ids, torch.tensor([False, True]))
    assert dropped.tolist() == [[5, 6, END], [END, PAD, PAD]]
    assert torch.equal(dropped[1:], model.without(ids[1:]))


@pytest.mark.parametrize(("name", "millions"), [("350m", 352), ("750m", 755), ("3b", 3020), ("20b", 20_401)])
def test_the_papers_sizes_have_the_papers_parameters(name, millions):
    """Source: Parti, table 1. Its sizes are the matrices of the layers, 12 d^2 in the encoder and 16 d^2 in the
    decoder; beside them and the embeddings there are the norms alone, of 2 d each.
    """
    config = TrainPriorConfig.load(str(CONFIGS / f"parti_{name}.toml"), [])
    shape = make_shape(PartiShape, config.architecture)
    with torch.device("meta"):
        model = Parti(shape)
    layers = [*model.text_encoder.blocks.parameters(), *model.decoder.parameters()]
    matrices = sum(parameter.numel() for parameter in layers if parameter.dim() == 2)
    assert matrices == (12 * shape.num_encoder_layers + 16 * shape.num_decoder_layers) * shape.width**2
    assert matrices / 1e6 == pytest.approx(millions, abs=0.5)
    embeddings = (model.token_embedding, model.text_encoder.embedding, model.to_logits)
    num_norms = 2 * shape.num_encoder_layers + 3 * shape.num_decoder_layers + 2
    rest = sum(parameter.numel() for parameter in model.parameters()) - matrices
    rest -= sum(parameter.numel() for module in embeddings for parameter in module.parameters())
    rest -= (shape.max_text_length + 2 * shape.grid_side + 1) * shape.width
    assert rest == 2 * shape.width * num_norms
    assert (shape.image_attention, shape.kernel_side, shape.feed_forward, shape.norm) == ("conv", 11, "relu", "layer")
    assert shape.num_tokens == 1024


def test_two_thirds_of_a_gated_hidden_width_keep_the_number_of_parameters():
    plain, gated = (
        sum(parameter.numel() for parameter in Parti(replace(TINY, biases=False, **fields)).parameters())
        for fields in ({"hidden": 96}, {"hidden": 64, "feed_forward": "geglu"})
    )
    assert plain == gated


def test_the_laptops_size_has_twelve_million_weights_beside_its_embeddings():
    config = TrainPriorConfig.load(str(CONFIGS / "parti_laptop.toml"), [])
    with torch.device("meta"):
        model = Parti(make_shape(PartiShape, config.architecture))
    layers = [*model.text_encoder.blocks.parameters(), *model.decoder.parameters()]
    assert sum(parameter.numel() for parameter in layers) / 1e6 == pytest.approx(12, abs=0.5)
