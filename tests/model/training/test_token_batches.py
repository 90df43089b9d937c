from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from model.priors.parti import Parti, PartiShape
from model.training.token_batches import StepBatches, TokenBatches, as_tensors
from parti_data import TokenBatch, TokenDataset

TINY = PartiShape(width=8, hidden=8, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)


def make(path: str, **options: object) -> TokenDataset:
    return TokenDataset(path, 8, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tokens) -> list[TokenBatch]:
    return list(islice(make(tokens), 24))


def assert_equal(found: list, expected: list[TokenBatch]) -> None:
    assert [int(batch.step) for batch in found] == [batch.step for batch in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine.keys) == theirs.keys
        assert list(mine.captions) == theirs.captions
        for name in ("text_ids", "text_lengths", "image_tokens", "boxes"):
            tensor = getattr(mine, name)
            assert isinstance(tensor, torch.Tensor)
            np.testing.assert_array_equal(tensor.numpy(), getattr(theirs, name))


@pytest.mark.parametrize(("num_workers", "start"), [(0, None), (1, "fork"), (2, "fork"), (1, "spawn")])
def test_a_data_loader_gives_the_batches_in_order_to_the_last_whatever_its_workers(tokens, whole, num_workers, start):
    dataset = make(tokens, exhausted="stop_at_first")
    dataset.batch(0)  # threads of this process do not reach a worker
    loader = DataLoader(TokenBatches(dataset), batch_size=None, num_workers=num_workers, multiprocessing_context=start)
    # to the last: where torch ends a spawned worker that is still sending, that one may abort
    assert_equal(list(loader), whole[: len(dataset)])


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 2), (2, 0)])
def test_a_data_loader_goes_on_behind_the_last_batch_with_any_number_of_workers(tokens, whole, before, after):
    dataset, resumed = make(tokens), make(tokens)
    *_, batch = islice(DataLoader(TokenBatches(dataset), batch_size=None, num_workers=before), 5)
    resumed.load_state_dict(dataset.state_dict() | {"step": batch.step + 1})
    loader = DataLoader(TokenBatches(resumed), batch_size=None, num_workers=after)
    assert_equal(list(islice(loader, 6)), whole[5:11])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_is_a_map_from_steps_to_batches(tokens, whole, num_workers):
    loader = DataLoader(make(tokens), batch_size=None, sampler=range(3, 11), num_workers=num_workers)
    assert_equal(list(loader), whole[3:11])


@pytest.mark.filterwarnings("ignore:'.*' is deprecated")  # torchdata looks at all that torch has
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4])
def test_torchdatas_loader_resumes_exactly(tokens, whole, num_workers, taken):
    first = StatefulDataLoader(TokenBatches(make(tokens)), batch_size=None, num_workers=num_workers)
    assert_equal(list(islice(first, taken)), whole[:taken])
    resumed = StatefulDataLoader(TokenBatches(make(tokens)), batch_size=None, num_workers=num_workers)
    resumed.load_state_dict(first.state_dict())
    assert_equal(list(islice(resumed, 10)), whole[taken : taken + 10])


def step_batches(path: str, device: torch.device) -> StepBatches:
    dataset, prior = make(path), Parti(TINY)
    return StepBatches(lambda step: as_tensors(dataset.batch(step), prior), device)


def test_a_step_s_batch_is_wide_integers_on_the_device(tokens, whole):
    batches = step_batches(tokens, torch.device("cpu"))
    for step in (3, 0, 4):
        keys, text_ids, image_tokens = batches.get(step)
        assert keys == whole[step].keys
        assert text_ids.dtype == image_tokens.dtype == torch.int64
        np.testing.assert_array_equal(text_ids, whole[step].text_ids)
        np.testing.assert_array_equal(image_tokens, whole[step].image_tokens)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches(tokens, whole):
    batches = step_batches(tokens, torch.device("cuda"))
    for step in (0, 1, 5):
        np.testing.assert_array_equal(batches.get(step).image_tokens.cpu(), whole[step].image_tokens)
