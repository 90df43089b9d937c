"""iGPT against a network, losses and optimizer written out anew in float64, for both of its objectives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.priors.igpt import IGPT, IGPTShape, hidden_by_tokens
from model.priors.prior_file import load_prior, save_prior
from model.training.row_dropout import RowKeys, drop_by_row
from parti_data.errors import ConfigError
from parti_data.keyed_random import stream_key

DRAWING = IGPTShape(codebook_size=20, grid_side=4, width=32, hidden=128, num_heads=2, num_layers=2)
BERT = replace(DRAWING, objective="bert")
SHAPES = pytest.mark.parametrize("shape", [DRAWING, BERT], ids=["autoregressive", "bert"])
TOKENS = torch.randint(0, 20, (3, 16), generator=torch.Generator().manual_seed(3))
NOTHING = torch.zeros(3, 0, dtype=torch.long)
HIDDEN = torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.3
Weights = dict[str, torch.Tensor]


def make(shape: IGPTShape) -> IGPT:
    """A network whose logits differ: new ones are all zero."""
    torch.manual_seed(0)
    model = IGPT(shape)
    torch.nn.init.normal_(model.to_logits.weight, std=0.3)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def told_in_float64(weights: Weights, tokens: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
    """Return log-probabilities (B, N, V); without `hidden` those of the next token, behind a start."""
    embedded = weights["token_embedding.weight"][tokens]
    if hidden is None:
        x = torch.cat([weights["start"].expand(len(tokens), 1, -1), embedded[:, :-1]], 1)
    else:
        x = embedded * (~hidden)[..., None]
    x = x + weights["positions"]
    for layer in range(2):
        own = {n.removeprefix(f"decoder.{layer}."): w for n, w in weights.items() if f"decoder.{layer}." in n}
        x = x + attended(rms(x, own["self_norm.weight"]), own, hidden is None)
        wide = rms(x, own["feed_forward_norm.weight"]) @ own["feed_forward.0.weight"].T
        x = x + (wide / (1 + (-1.702 * wide).exp())) @ own["feed_forward.2.weight"].T
    return (rms(x, weights["decoder_norm.weight"]) @ weights["to_logits.weight"].T).log_softmax(-1)


def rms(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale


def attended(x: torch.Tensor, weights: Weights, is_causal: bool) -> torch.Tensor:
    """What two heads of 16 channels see, each position of those up to it or of all."""
    queries, keys, values = (x @ weights["self_attention.to_qkv.weight"].T).chunk(3, -1)
    rows = []
    for place in range(x.shape[1]):
        end = place + 1 if is_causal else x.shape[1]
        heads = []
        for head in (slice(0, 16), slice(16, 32)):
            scores = torch.einsum("bd,bnd->bn", queries[:, place, head], keys[:, :end, head]) / 4
            heads.append(torch.einsum("bn,bnd->bd", scores.softmax(-1), values[:, :end, head]))
        rows.append(torch.cat(heads, -1))
    return torch.stack(rows, 1) @ weights["self_attention.to_out.weight"].T


def row_nats(weights: Weights, hidden: torch.Tensor | None) -> torch.Tensor:
    """The mean over each row's tokens, or over its hidden ones."""
    nats = -told_in_float64(weights, TOKENS, hidden).gather(-1, TOKENS[..., None])[..., 0]
    return (
        nats.mean(1) if hidden is None else torch.stack([row[at].mean() for row, at in zip(nats, hidden, strict=True)])
    )


def in_float64(model: IGPT) -> Weights:
    return {name: tensor.detach().double().requires_grad_() for name, tensor in model.named_parameters()}


@SHAPES
def test_losses_and_a_step_of_adam_are_those_of_an_independent_float64_network(shape, monkeypatch):
    model = make(shape)
    hidden = HIDDEN if shape.is_bert else None
    monkeypatch.setattr("model.priors.igpt.HiddenPositions.forward", lambda self, tokens: HIDDEN)
    weights = in_float64(model)
    wanted = row_nats(weights, hidden).mean()
    loss = model.losses(NOTHING, TOKENS)["total"]
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, (0.9, 0.95), weight_decay=0.0)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    loss.backward()
    optimizer.step()
    gradients = torch.autograd.grad(wanted, list(weights.values()))
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        found = parameter.grad
        assert found is not None, name
        torch.testing.assert_close(found.double(), gradient, atol=2e-6, rtol=2e-4, msg=name)
        moved = before[name].double() - 0.01 * gradient / (gradient.abs() + 1e-8)  # a first step: both means are it
        is_told = gradient.abs() > 1e-4
        assert is_told.any(), name
        torch.testing.assert_close(parameter.double()[is_told], moved[is_told], atol=1e-5, rtol=1e-4, msg=name)


@SHAPES
def test_rows_are_measured_with_what_they_themselves_hide(shape):
    model = make(shape).eval()
    wanted = row_nats(in_float64(model), hidden_by_tokens(TOKENS) if shape.is_bert else None)
    found = model.row_losses(NOTHING, TOKENS)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.row_losses(NOTHING[1:2], TOKENS[1:2]), found[1:2], atol=1e-6, rtol=0)


def test_a_row_hides_15_percent_of_its_positions_whatever_its_batch():
    tokens = torch.randint(0, 20, (400, 256), generator=torch.Generator().manual_seed(3))
    hidden = hidden_by_tokens(tokens)
    error = (0.15 * 0.85 / hidden.numel()) ** 0.5
    assert abs(hidden.double().mean().item() - 0.15) < 4.5 * error
    places = hidden.double().mean(0)
    assert (places - 0.15).abs().max() < 5 * (0.15 * 0.85 / 400) ** 0.5
    assert len(np.unique(hidden.numpy(), axis=0)) == 400
    assert torch.equal(hidden_by_tokens(tokens.flip(0)), hidden.flip(0))
    assert not torch.equal(hidden_by_tokens(tokens.flip(1)), hidden)


def test_positions_are_hidden_in_training_alone_and_anew_each_time():
    hide = IGPT(BERT).hide
    assert hide
    torch.manual_seed(0)
    tokens = torch.zeros(200, 256, dtype=torch.long)
    first, second = hide(tokens), hide(tokens)
    assert abs(first.double().mean().item() - 0.15) < 0.01
    assert not torch.equal(first, second)
    assert not hide.eval()(tokens).any()


def test_in_a_training_job_a_row_hides_the_same_in_whichever_part_of_whichever_rank():
    model, rows, device = IGPT(BERT), RowKeys(), torch.device("cpu")
    drop_by_row(model, rows)

    def hidden(step: int, numbers: list[int]) -> torch.Tensor:
        rows.take(stream_key(0, step, 4), np.array(numbers), device)
        assert model.hide
        return model.hide(torch.zeros(len(numbers), 256, dtype=torch.long))

    whole = hidden(7, list(range(8)))
    assert abs(whole.double().mean().item() - 0.15) < 0.04
    assert torch.equal(hidden(7, [5, 2]), whole[[5, 2]])
    assert not (hidden(8, list(range(8))) == whole).all(1).any()
    assert len(torch.unique(whole, dim=0)) == 8


def test_a_row_without_hidden_tokens_has_no_loss(monkeypatch):
    hidden = HIDDEN.clone()
    hidden[1] = False
    monkeypatch.setattr("model.priors.igpt.HiddenPositions.forward", lambda self, tokens: hidden)
    model = make(BERT)
    loss = model.losses(NOTHING, TOKENS)["total"]
    wanted = [row_nats(in_float64(model), HIDDEN)[row] for row in (0, 2)]
    assert loss.item() == pytest.approx(sum(wanted).item() / 3, abs=1e-5)


def test_cached_decoding_equals_uncached_with_positions_filled_at_once_or_not(compare_steps):
    compare_steps(make(DRAWING).eval(), NOTHING, TOKENS)


@pytest.mark.parametrize(
    ("width", "layers", "side", "millions"),
    [(512, 24, 32, 76.5), (1024, 36, 32, 455.1), (1536, 48, 32, 1362.1), (3072, 60, 64, 6810)],
)
def test_the_papers_sizes_have_the_papers_numbers_of_weights(width, layers, side, millions):
    """Matrices of 12 squares of the width a layer; embeddings of 512 codes read, as many told, and of the positions."""
    with torch.device("meta"):
        model = IGPT(IGPTShape(grid_side=side, width=width, hidden=4 * width, num_layers=layers))
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(counts.values()) == 12 * layers * width**2 + (2 * 512 + side**2) * width + (2 * layers + 2) * width
    assert sum(counts.values()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_weights_begin_as_in_the_published_code():
    torch.manual_seed(0)
    model = IGPT(IGPTShape(grid_side=16, width=128, hidden=512, num_heads=4, num_layers=3))
    stds = {
        "positions": 0.01, "token_embedding.weight": 0.02, "start": 0.02, "to_qkv.weight": 128**-0.5,
        "to_out.weight": (3 * 128) ** -0.5, "feed_forward.0.weight": 0.02, "feed_forward.2.weight": 0.02,
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        if name == "to_logits.weight":
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            (wanted,) = [std for ending, std in stds.items() if name.endswith(ending)]
            assert parameter.std().item() == pytest.approx(wanted, rel=4 / (2 * parameter.numel()) ** 0.5), name
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_logits_are_a_product_in_float32_whatever_the_surroundings():
    model, states = make(DRAWING), torch.randn(2, 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.tell(states)
    assert torch.equal(found, model.tell(states))


def test_one_trained_as_bert_draws_nothing():
    make(DRAWING).refuse_drawing()
    with pytest.raises(
        ConfigError,
        match="prior: expected one that tells a token by those before it, found one trained with "
        "architecture.objective=bert, which tells hidden tokens by all others; train another to draw images",
    ):
        make(BERT).refuse_drawing()


@SHAPES
def test_a_saved_prior_is_the_same_prior(shape, metadata, tmp_path):
    model, path = make(shape).eval(), str(tmp_path / "prior.safetensors")
    save_prior(model, metadata, path)
    loaded = load_prior(path).model
    assert (loaded.shape, loaded.reads) == (shape, "nothing")
    assert torch.equal(loaded(NOTHING, TOKENS), model(NOTHING, TOKENS))
