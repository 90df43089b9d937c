import pytest
import torch

from model.text_encoder import TextEncoderShape
from model.training.masked_text import MaskedText
from parti_data.text import END, PAD

SHAPE = TextEncoderShape(
    text_vocabulary_size=32, max_text_length=12, width=32, hidden=64, num_heads=2, num_encoder_layers=2, dropout=0.0
)
IDS = torch.tensor([[5, 6, 7, END, PAD], [8, 9, 10, 11, END]])
MASKED = torch.tensor([[True, False, False, False, False], [False, False, True, False, False]])
PLACES = torch.tensor([0, 6, 7])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MaskedText(SHAPE).eval()


def test_logits_are_those_of_the_chosen_places_by_the_tied_embedding(network):
    embedded = network.text_encoder.embedding(IDS).detach().clone()
    embedded[0, 0] = embedded[1, 2] = network.mask.detach()
    states = network.text_encoder(IDS, embedded).states.detach().double()
    linear, _, norm = network.transform.double()
    wanted = []
    for row, place in ((0, 0), (1, 1), (1, 2)):
        hidden = torch.nn.functional.gelu(linear.weight @ states[row, place] + linear.bias)
        hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
        wanted.append(network.text_encoder.embedding.weight.double() @ hidden + network.bias.double())
    found = network.float()(IDS, MASKED, PLACES)
    assert found.shape == (3, 32)
    torch.testing.assert_close(found.double(), torch.stack(wanted), atol=1e-5, rtol=1e-5)


def test_what_is_masked_is_not_read(network):
    other = IDS.clone()
    other[0, 0], other[1, 2] = 20, 21
    assert torch.equal(network(other, MASKED, PLACES), network(IDS, MASKED, PLACES))
    other[1, 1] = 22  # chosen, but shown
    assert not torch.allclose(network(other, MASKED, PLACES), network(IDS, MASKED, PLACES))


def test_the_mask_is_no_part_of_the_encoder(network):
    assert not [name for name in network.text_encoder.state_dict() if "mask" in name]
    assert len(network.text_encoder.embedding.weight) == SHAPE.text_vocabulary_size
    network(IDS, MASKED, PLACES).sum().backward()
    assert network.mask.grad.abs().sum() > 0
