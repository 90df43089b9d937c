import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.training.row_dropout import RowDropout, RowKeys, drop_by_row
from parti_data.keyed_random import stream_key


def keys_of(rows, step: int = 0) -> RowKeys:
    keys = RowKeys()
    keys.take(stream_key(0, step), np.asarray(rows), torch.device("cpu"))
    return keys


def kept(rows, number: int = 0, step: int = 0, p: float = 0.25, size: int = 5000, call: int = 0) -> np.ndarray:
    dropout = RowDropout(p, keys_of(rows, step), number, torch.device("cpu"))
    dropout.calls = call
    dropped = dropout(torch.ones(len(rows), size))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    return (dropped > 0).numpy()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_is_dropped_of_each_row_and_of_each_column(p):
    found = kept(range(2000), p=p, size=2000)
    for axis in (0, 1):
        shares = found.mean(axis)
        z = (shares - (1 - p)) / np.sqrt(p * (1 - p) / 2000)
        assert abs(z).max() < 5
        assert z.std() == pytest.approx(1, abs=0.1)


def test_rows_steps_places_and_neighbours_are_independent():
    one = kept(range(50))
    others = {"row": kept(range(50, 100)), "step": kept(range(50), step=1), "place": kept(range(50), number=1)}
    others["call"] = kept(range(50), call=1)
    others |= {"next": np.roll(one, 1, 1), "next row": np.roll(one, 1, 0), "power of two": np.roll(one, 1024, 1)}
    for name, other in others.items():
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(one.size), name


def mixed(numbers: np.ndarray) -> np.ndarray:
    """The hash of the module, in unsigned arithmetic."""
    numbers = numbers * np.uint32(0x7FEB352D)
    numbers = (numbers ^ (numbers >> np.uint32(15))) * np.uint32(0x846CA68B)
    return numbers ^ (numbers >> np.uint32(16))


def test_what_is_kept_is_the_same_in_unsigned_arithmetic():
    rows, keys = keys_of(range(6)), keys_of(range(6)).keys.numpy().view(np.uint32)
    numbers = np.arange(20_000, dtype=np.uint32) * np.uint32(0x9E3779B9)
    values = mixed(numbers ^ mixed(keys ^ np.uint32(3 * 16))[:, None]).view(np.int32)
    found = RowDropout(0.1, rows, 3, torch.device("cpu"))(torch.ones(6, 40, 500))
    assert np.array_equal(found.view(6, -1) > 0, values >> 16 >= round(-0.4 * 2**16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch.compile's own
def test_what_is_kept_on_a_gpu_is_the_same_when_compiled():
    keys = RowKeys()
    keys.take(stream_key(0, 0), np.arange(3), torch.device("cuda"))
    dropout, x = RowDropout(0.1, keys, 3, torch.device("cuda")), torch.randn(3, 1024, 1024, device="cuda")
    found = dropout(x)
    dropout.calls = 0
    assert torch.equal(torch.compile(lambda x: dropout(x).relu(), dynamic=False)(x), found.relu())


def test_a_row_loses_the_same_whichever_others_are_with_it_and_however_long_they_are():
    whole = kept([3, 4, 5, 6])
    assert (kept([4, 6]) == whole[[1, 3]]).all()
    assert (kept([4, 6], size=70) == whole[[1, 3], :70]).all()


class Twice(nn.Module):
    """A module that drops at two places of one forward."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(40, 40, bias=False), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.linear(self.dropout(x)))


def test_a_network_s_dropouts_are_replaced_where_they_drop_and_each_call_is_a_place_of_its_own():
    network = nn.Sequential(Twice(), Twice(), nn.Dropout(0.0))
    drop_by_row(network, keys_of(range(6)))
    assert [type(part).__name__ for part in network.modules() if "Dropout" in type(part).__name__] == [
        "RowDropout", "RowDropout", "Dropout",
    ]  # fmt: skip
    dropout = network[0].dropout
    dropout.calls = 0
    first, second = dropout(torch.ones(6, 400)), dropout(torch.ones(6, 400))
    assert not torch.equal(first, second)
    x = torch.randn(6, 40)
    assert torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network[1].linear(network[0].linear(x)))


def test_what_is_computed_twice_drops_the_same():
    network = Twice()
    drop_by_row(network, keys_of(range(6)))
    gradients = []
    for again in (False, True):
        x = torch.linspace(-1, 1, 240).view(6, 40).requires_grad_()
        y = checkpoint(network.forward, x, use_reentrant=False, preserve_rng_state=False) if again else network(x)
        y.square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_losses_that_pass_by_the_forward_drop_the_same_when_done_again():
    class Losing(Twice):
        def losses(self, x):
            return {"total": self.dropout(self.linear(x)).sum()}

    network = Losing()
    drop_by_row(network, keys_of(range(6)))
    x = torch.randn(6, 40)
    assert network.losses(x) == network.losses(x)
