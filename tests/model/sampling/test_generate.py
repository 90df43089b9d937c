from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model.priors.dalle import DALLE, DALLEShape
from model.priors.parti import Parti, PartiShape
from model.sampling.generate import Sampling, draw_tokens, filter_logits, generate, guide, uniform_numbers
from parti_data.errors import CheckpointError
from parti_data.text import END, PAD

TINY = PartiShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=1, num_decoder_layers=2, dropout=0.0,
)  # fmt: skip
DALLE_TINY = DALLEShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_layers=4, kernel_side=3,
)  # fmt: skip
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 3.0]])


@pytest.fixture(params=["dense", "conv", "dalle"])
def model(request):
    torch.manual_seed(0)
    if request.param == "dalle":
        return DALLE(DALLE_TINY).eval().requires_grad_(False)
    return Parti(replace(TINY, image_attention=request.param, kernel_side=3)).eval().requires_grad_(False)


def test_guidance_is_the_papers_equation():
    with_text, without = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])
    assert guide(with_text, without, 3.0).tolist() == [2 + 3 * (1 - 2), 1 + 3 * (4 - 1)]
    assert torch.equal(guide(with_text, without, 1.0), with_text)


def test_top_k_keeps_the_k_likeliest():
    kept = filter_logits(LOGITS, Sampling(top_k=2)).isfinite()
    assert kept.tolist() == [[True, False, False, False, True]]


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_k_of_tokens_that_are_as_likely(top_k):
    kept = filter_logits(torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]), Sampling(top_k=top_k)).isfinite()
    assert kept.sum() == top_k
    assert not kept[0, [0, 4]].any()


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.64, 0.88, 0.99])
def test_top_p_keeps_the_fewest_tokens_that_reach_p(top_p):
    probabilities = np.exp(LOGITS[0].double().numpy())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities)
    needed = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
    kept = filter_logits(LOGITS, Sampling(top_p=top_p)).isfinite()[0].nonzero().flatten().tolist()
    assert kept == sorted(order[:needed].tolist())


def test_temperature_divides_the_logits():
    torch.testing.assert_close(filter_logits(LOGITS, Sampling(temperature=0.5)), LOGITS * 2)


def test_drawn_tokens_follow_the_distribution():
    uniform = torch.linspace(0, 1, 100_001)[:-1]
    drawn = draw_tokens(LOGITS.expand(len(uniform), -1), uniform)
    shares = torch.bincount(drawn, minlength=5) / len(uniform)
    torch.testing.assert_close(shares, LOGITS[0].softmax(-1), atol=1e-4, rtol=0)


def test_a_token_that_was_filtered_out_is_never_drawn():
    logits = filter_logits(LOGITS, Sampling(top_k=1))
    drawn = draw_tokens(logits.expand(3, -1), torch.tensor([0.0, 0.5, 1 - 1e-9]))
    assert drawn.tolist() == [4, 4, 4]


def test_an_image_does_not_depend_on_its_batch(model):
    text_ids = torch.tensor([[5, 6, END, PAD], [7, 8, 9, END], [10, END, PAD, PAD]])
    uniform = uniform_numbers([(0, n, 0) for n in range(3)], 16)
    together = generate(model, text_ids, uniform, Sampling(guidance=2.0))
    alone = torch.cat(
        [generate(model, text_ids[n : n + 1], uniform[n : n + 1], Sampling(guidance=2.0)) for n in range(3)]
    )
    assert torch.equal(together, alone)


def test_generation_equals_a_loop_without_a_cache(model, monkeypatch):
    monkeypatch.setattr("model.sampling.decoding._SPAN", 5)
    text_ids = torch.tensor([[5, 6, END], [7, END, PAD]])
    uniform = uniform_numbers([(1, n) for n in range(2)], 16)
    sampling = Sampling(guidance=1.5, temperature=0.9, top_k=20)
    tokens = torch.zeros(2, 16, dtype=torch.long)
    for position in range(16):
        logits = guide(model(text_ids, tokens), model(model.without(text_ids), tokens), 1.5)[:, position]
        tokens[:, position] = draw_tokens(filter_logits(logits, sampling), uniform[:, position])
    assert torch.equal(generate(model, text_ids, uniform, sampling), tokens)


@pytest.mark.parametrize("long_from", [1, 256])
@pytest.mark.parametrize("num_given", [1, 8, 12, 16])
def test_given_tokens_come_back_and_the_rest_is_drawn_as_by_a_loop_without_a_cache(
    model, num_given, long_from, monkeypatch
):
    monkeypatch.setattr("model.attention.LONG_SEQUENCE", long_from)  # from where attention is done another way
    monkeypatch.setattr("model.sampling.decoding._SPAN", 5)
    text_ids, given = torch.tensor([[5, 6, END], [7, END, PAD]]), torch.randint(64, (2, num_given))
    uniform = uniform_numbers([(1, n) for n in range(2)], 16)
    sampling = Sampling(guidance=1.5, temperature=0.9, top_k=20)
    tokens = torch.zeros(2, 16, dtype=torch.long)
    tokens[:, :num_given] = given
    for position in range(num_given, 16):
        logits = guide(model(text_ids, tokens), model(model.without(text_ids), tokens), 1.5)[:, position]
        tokens[:, position] = draw_tokens(filter_logits(logits, sampling), uniform[:, position])
    assert torch.equal(generate(model, text_ids, uniform, sampling, given), tokens)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_first_tokens_of_a_drawn_image_give_it_back(model, guidance):
    text_ids, uniform = torch.tensor([[5, 6, END], [7, END, PAD]]), uniform_numbers([(3, n) for n in range(2)], 16)
    sampling = Sampling(guidance=guidance)
    drawn = generate(model, text_ids, uniform, sampling)
    for num_given in (0, 4, 11, 16):
        assert torch.equal(generate(model, text_ids, uniform, sampling, drawn[:, :num_given]), drawn)


def test_another_seed_draws_another_image(model):
    text_ids = torch.tensor([[5, 6, END]])
    first, second = (generate(model, text_ids, uniform_numbers([(seed, 0)], 16), Sampling()) for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("values", [{}, {"temperature": 1e-46}, {"guidance": 1e39}, {"top_k": 3}, {"top_p": 0.9}])
def test_logits_that_are_not_finite_are_refused(model, values):
    if not {"temperature", "guidance"} & values.keys():
        model.to_logits.weight[5, 0] = float("nan")
    text_ids, uniform = torch.tensor([[5, 6, END], [7, END, PAD]]), uniform_numbers([(1, n) for n in range(2)], 16)
    with pytest.raises(
        CheckpointError, match="sampling: expected finite logits, found others for 2 of 2 images; check"
    ):
        generate(model, text_ids, uniform, Sampling(**values))


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_settings_that_no_token_survives_are_refused(values):
    with pytest.raises(ValidationError, match="greater than"):
        Sampling(**values)
