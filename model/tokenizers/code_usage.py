"""Which codes are in use over an epoch, to be reported, and lately, to know which died; the same on all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor


def count_codes(tokens: Tensor, codebook_size: int) -> Tensor:
    """Return int64 (V,), how often each code occurs in the tokens of all ranks."""
    counts = torch.bincount(tokens.flatten(), minlength=codebook_size)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return counts


class CodeUsage:
    """How often each code was used since the start, or since `reset`: over an epoch, not a batch, which cannot hold
    all codes.
    """

    def __init__(self, codebook_size: int):
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    def update(self, counts: Tensor) -> None:
        """Add counts that `count_codes` returned."""
        self.counts = self.counts.to(counts.device) + counts

    def share(self) -> float:
        """Return the share of the codes that were used at all."""
        return float((self.counts > 0).double().mean())

    def perplexity(self) -> float:
        """Return exp of the entropy of the codes: how many equally frequent codes would be as hard to predict."""
        frequencies = self.counts[self.counts > 0].double() / self.counts.sum()
        return float(torch.exp(-(frequencies * frequencies.log()).sum()))

    def reset(self) -> None:
        """Forget all counts."""
        self.counts = torch.zeros_like(self.counts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the counts."""
        self.counts = state["counts"]


class RecentUse:
    """How often each code was used in the last steps, older ones counting less; a code below one use is dead."""

    DECAY = 0.98

    def __init__(self, codebook_size: int):
        self.counts = torch.zeros(codebook_size)

    def update(self, counts: Tensor) -> None:
        """Add a step's counts that `count_codes` returned."""
        self.counts = self.DECAY * self.counts.to(counts.device) + counts

    def dead(self) -> Tensor:
        """Return the indices of the dead codes."""
        return (self.counts < 1).nonzero().flatten()

    def spare(self, codes: Tensor) -> None:
        """Let codes that were just restarted live for some steps, as if each had a tenth of a use in every step."""
        self.counts[codes] = 1 / (1 - self.DECAY) / 10

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the counts."""
        self.counts = state["counts"]
