import numpy as np
import pytest
import torch

from model.tokenizers.quantize import first_largest, lowest_place_of_largest, nearest_codes


@pytest.mark.parametrize("normalise", [False, True])
def test_the_nearest_code_is_that_of_a_float64_search(normalise):
    generator = torch.Generator().manual_seed(0)
    latents, codes = torch.randn(3, 50, 6, generator=generator), 2 * torch.randn(300, 6, generator=generator)
    rows, table = latents.double().numpy().reshape(-1, 6), codes.double().numpy()
    if normalise:
        rows, table = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, table))
    wanted = ((rows[:, None] - table) ** 2).sum(-1).argmin(-1).reshape(3, 50)
    np.testing.assert_array_equal(nearest_codes(latents, codes, normalise).numpy(), wanted)


def test_normalised_and_plain_distances_choose_differently():
    codes = torch.tensor([[10.0, 1.0], [0.5, 0.5]])
    assert nearest_codes(torch.tensor([[1.0, 0.1]]), codes, normalise=True).item() == 0
    assert nearest_codes(torch.tensor([[1.0, 0.1]]), codes).item() == 1


def test_half_precision_around_it_changes_no_token():
    generator = torch.Generator().manual_seed(1)
    latents, codes = torch.randn(200, 8, generator=generator), torch.randn(512, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest_codes(latents, codes)
    assert torch.equal(found, nearest_codes(latents, codes))


def test_ties_go_to_the_lowest_index_on_every_device():
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert first_largest(scores).tolist() == [1, 0]
    assert lowest_place_of_largest(scores).tolist() == [1, 0]


def test_comparing_finds_what_argmax_finds_on_a_cpu():
    scores = torch.randint(0, 5, (200, 3, 40), generator=torch.Generator().manual_seed(3)).float()
    assert torch.equal(lowest_place_of_largest(scores), scores.argmax(-1))


def test_rows_compared_in_parts_are_those_compared_at_once():
    generator = torch.Generator().manual_seed(2)
    latents, codes = torch.randn(9000, 4, generator=generator), torch.randn(64, 4, generator=generator)
    apart = torch.cat([nearest_codes(part, codes) for part in latents.split(1000)])
    assert torch.equal(nearest_codes(latents, codes), apart)
