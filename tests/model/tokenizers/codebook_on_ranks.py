# ruff: noqa: F821  # what this needs is given as globals
"""What the tests run on each rank: all that changes a codebook, and what each rank then has."""

import datetime
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist

from model.tokenizers.code_usage import CodeUsage, RecentUse, count_codes
from model.tokenizers.codebook import Codebook

TOLD: dict[str, str]
OUTPUT: str

os.environ.update(TOLD)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
rank = dist.get_rank()
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
Path(OUTPUT, f"{rank}.json").write_text(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
