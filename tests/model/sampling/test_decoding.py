from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from model.priors.parti import Parti, PartiShape
from model.sampling.decoding import Decoding, DecodingExecution, prepare
from parti_data.text import END

TINY = PartiShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=1, num_decoder_layers=2, dropout=0.0,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Parti(TINY).eval().requires_grad_(False)


@torch.inference_mode()
def logits_of_first_steps(model):
    decoding = Decoding(model, torch.tensor([[5, 6, END], [7, 8, END]]))
    drawn = [torch.tensor([0, 0]), torch.tensor([3, 9]), torch.tensor([1, 4])]
    return torch.stack([decoding.step(last, position).clone() for position, last in enumerate(drawn)])


def test_in_bfloat16_products_and_caches_alone_are_narrow(model):
    wanted = logits_of_first_steps(model)
    prepare(model, DecodingExecution(precision="bfloat16"))
    found = logits_of_first_steps(model)
    assert {values.dtype for pair in model.make_caches(2) for values in pair} == {torch.bfloat16}
    assert {model.decoder_norm.weight.dtype, model.token_embedding.weight.dtype, found.dtype} == {torch.float32}
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
@torch.inference_mode()
def test_positions_filled_at_once_leave_what_their_steps_would(model, precision, tolerance):
    prepare(model, DecodingExecution(precision=precision))
    tokens = torch.tensor([[3, 9, 1, 7, 7], [1, 4, 60, 2, 0]])
    text_ids = torch.tensor([[5, 6, END], [7, 8, END]])
    stepped, filled = Decoding(model, text_ids), Decoding(model, text_ids)
    for position in range(5):
        stepped.step(tokens[:, max(position - 1, 0)], position)
    filled.fill(tokens)
    found, wanted = (decoding.step(tokens[:, -1], 5) for decoding in (filled, stepped))
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


@torch.inference_mode()
def test_a_step_may_be_done_again(model):
    decoding = Decoding(model, torch.tensor([[5, 6, END]]))
    first = decoding.step(torch.tensor([0]), 0).clone()
    decoding.step(torch.tensor([3]), 1)
    wanted = decoding.step(torch.tensor([4]), 1).clone()
    assert torch.equal(decoding.step(torch.tensor([4]), 1), wanted)
    assert torch.equal(decoding.step(torch.tensor([0]), 0), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("attention", ["dense", "conv"])
@torch.inference_mode()
def test_captured_steps_are_those_of_the_whole_sequence(attention, monkeypatch):
    monkeypatch.setattr("model.sampling.decoding._SPAN", 5)
    torch.manual_seed(0)
    model = Parti(replace(TINY, image_attention=attention, kernel_side=3)).eval()
    text_ids, tokens = torch.tensor([[5, 6, END], [7, 8, END]]), torch.randint(64, (2, 16))
    wanted = model(text_ids, tokens)
    prepare(model, DecodingExecution(device="cuda"))
    for first in (0, 7):
        decoding = Decoding(model, text_ids.cuda())
        if first:
            decoding.fill(tokens[:, :first].cuda())
        for position in [*range(first, 16), first + 1, 15]:  # then back over other spans
            found = decoding.step(tokens[:, max(position - 1, 0)].cuda(), position).cpu()
            torch.testing.assert_close(found, wanted[:, position], atol=1e-4, rtol=0)


def test_compiling_is_for_a_gpu():
    with pytest.raises(ValidationError, match="compile goes with device cuda"):
        DecodingExecution(compile=True)
