"""Two processes that train together have the same codebook after everything that changes it."""

import json
from pathlib import Path

import pytest
import torch

from model.tokenizers.codebook import Codebook


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, run_on_ranks) -> list[dict]:
    output = tmp_path_factory.mktemp("ranks")
    run_on_ranks(Path(__file__).with_name("codebook_on_ranks.py"), OUTPUT=str(output))
    return [json.loads((output / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_both_ranks_end_with_the_same_of_everything(ranks):
    assert ranks[0] == ranks[1]


def test_codes_are_picked_and_restarted_among_the_latents_of_both(ranks):
    torch.manual_seed(0)
    codebook, latents = Codebook(8, 4), torch.randn(2, 12, 4).flatten(0, 1)
    codebook.initialise(latents, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.tensor(ranks[0]["initialised"]), codebook.embedding.detach())
    counts = torch.bincount(codebook.nearest(latents), minlength=8)
    assert ranks[0]["counts"] == counts.tolist()
    counts[[1, 4, 5]] = 0
    dead = (counts == 0).nonzero().flatten()
    assert ranks[0]["moved"] == dead.tolist()
    codebook.restart(dead, latents, torch.Generator().manual_seed(7))
    torch.testing.assert_close(torch.tensor(ranks[0]["restarted"]), codebook.embedding.detach())
