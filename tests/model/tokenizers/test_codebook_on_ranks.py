"""Two processes that train together have the same codebook after everything that changes it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from model.tokenizers.codebook import Codebook

RANK = """
import datetime, json, sys
import torch
import torch.distributed as dist
from model.tokenizers.code_usage import CodeUsage, RecentUse, count_codes
from model.tokenizers.codebook import Codebook

rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
torch.manual_seed(0)
codebook, latents = Codebook(8, 4), torch.randn(2, 12, 4)[rank]
codebook.initialise(latents, torch.Generator().manual_seed(rank))  # rank 0's is what counts
found = {"initialised": codebook.embedding.tolist()}
usage, recent = CodeUsage(8), RecentUse(8)
counts = count_codes(codebook.nearest(latents), 8)
usage.update(counts)
recent.update(counts)
found["counts"] = usage.counts.tolist()
recent.counts[[1, 4, 5]] = 0
moved = codebook.restart(recent.dead(), latents, torch.Generator().manual_seed(7 + rank))
found["moved"] = moved.tolist()
found["restarted"] = codebook.embedding.tolist()
print(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    meeting = f"file://{tmp_path_factory.mktemp('ranks') / 'meeting'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), meeting],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended[0][1] + ended[1][1]
    return [json.loads(output) for output, _ in ended]


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
