import pytest
import torch

from model.priors.parti import Parti, PartiShape, drop_text, no_text
from parti_data.text import END, PAD

TINY = PartiShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=2, num_decoder_layers=2, dropout=0.0,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Parti(TINY).eval()


@pytest.fixture
def text_ids():
    return torch.tensor([[5, 6, 7, END, PAD, PAD], [8, 9, 10, 11, 12, END]])


def test_no_position_sees_itself_or_what_follows(model, text_ids):
    tokens = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    inputs = model.token_embedding(tokens).detach().requires_grad_()
    model.token_embedding.forward = lambda before: inputs[:, : before.shape[1]]  # the Jacobian needs the embeddings
    logits = model(text_ids, tokens)
    for position in range(16):
        (gradient,) = torch.autograd.grad(logits[:, position].square().sum(), inputs, retain_graph=True)
        seen = gradient.abs().sum((0, 2)) > 0
        assert not seen[position:].any(), position
        assert seen[:position].all(), position


def test_cached_decoding_equals_uncached(model, text_ids):
    tokens = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    whole = model(text_ids, tokens)
    text, caches = model.encode_text(text_ids), model.make_caches(2)
    for position in range(16):
        last = tokens[:, position - 1] if position else None
        torch.testing.assert_close(model.step(last, text, caches), whole[:, position], atol=1e-5, rtol=1e-4)


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
    assert model.loss(text_ids, tokens).item() == pytest.approx(wanted.item(), abs=1e-5)


def test_dropped_text_is_the_empty_text():
    ids = torch.tensor([[5, 6, END], [7, 8, END]])
    dropped = drop_text(ids, torch.tensor([False, True]))
    assert dropped.tolist() == [[5, 6, END], [END, PAD, PAD]]
    assert torch.equal(dropped[1:], no_text(1, 3))


@pytest.mark.parametrize(
    ("layers", "width", "heads", "wanted_millions"),
    [((12, 12), 1024, 16, 352), ((12, 36), 1024, 16, 755), ((12, 36), 2048, 32, 3020), ((16, 64), 4096, 64, 20400)],
)
def test_the_papers_sizes_have_the_papers_parameters(layers, width, heads, wanted_millions):
    """Source: Parti, table 1: 350M, 750M, 3B, 20B are matrices without embeddings, 12 d^2 and 16 d^2 a layer."""
    shape = PartiShape(
        width=width, hidden=4 * width, num_heads=heads, num_encoder_layers=layers[0], num_decoder_layers=layers[1]
    )
    with torch.device("meta"):
        model = Parti(shape)
    blocks = [*model.encoder, *model.decoder]
    matrices = sum(p.numel() for block in blocks for p in block.parameters() if p.dim() == 2)
    assert matrices == (12 * layers[0] + 16 * layers[1]) * width**2
    assert matrices / 1e6 == pytest.approx(wanted_millions, rel=0.005)
