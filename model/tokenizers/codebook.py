"""The codebook of a tokenizer in training: quantization with its loss, a start among latents, and restarts.

Where torch.distributed is initialised, rank 0 decides among the latents of all ranks, and all end with its codes.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.tokenizers.quantize import nearest_codes

COMMITMENT = 0.25
"""Source: ViT-VQGAN, arXiv 2110.04627v3, section 3.1, the weight beta of the commitment term."""
_CANDIDATES_PER_CODE = 16
_ROWS_AT_ONCE = 8192


class Quantized(NamedTuple):
    """What the codebook made of the latents."""

    codes: Tensor  # (B, I, K), l2-normalised; gradients pass straight through
    tokens: Tensor  # int64 (B, I)
    loss: Tensor  # codebook plus commitment term


class Codebook(nn.Module):
    """Nearest code by cosine, in float32 whatever the surroundings: half precision changes about half of all tokens.

    Source: section 3.2; latents and codes are l2-normalised.
    """

    def __init__(self, codebook_size: int, code_width: int):
        super().__init__()
        self.embedding = nn.Parameter(F.normalize(torch.randn(codebook_size, code_width), dim=-1))

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """Return int64 (B, I), the index of the nearest code to each latent (B, I, K); the lowest on ties."""
        return nearest_codes(latents, self.embedding, normalise=True)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the normalised codes (..., K) of tokens.

        Not by indexing: its gradient adds up in no fixed order on several threads, so that no run is like another.
        """
        return F.normalize(F.embedding(tokens, self.embedding), dim=-1)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents (B, I, K)."""
        tokens = self.nearest(latents)
        codes, normalised = self.lookup(tokens), F.normalize(latents.float(), dim=-1)
        loss = (codes - normalised.detach()).square().mean()
        loss = loss + COMMITMENT * (codes.detach() - normalised).square().mean()
        return Quantized(normalised + (codes - normalised).detach(), tokens, loss)

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """Take codes from latents (N, K), one after the other, far ones likelier, as k-means++ does.

        The generator is a CPU's. N is the same on every rank.
        """
        candidates = F.normalize(_of_all_ranks(latents).float(), dim=-1).cpu()
        pool = candidates[torch.randperm(len(candidates), generator=generator)[: _CANDIDATES_PER_CODE * len(self)]]
        distance = torch.full((len(pool),), 2.0)
        for code in range(len(self) if _decides() else 0):
            chosen = pool[torch.multinomial(distance, 1, generator=generator)]
            self.embedding[code] = chosen[0]
            distance = distance.minimum((1 - pool @ chosen[0]).clamp(min=1e-7))
        self._take_from_rank_0()

    @torch.no_grad()
    def restart(self, codes: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Move some codes (their indices, the same on every rank) to latents (N, K) that are far from every code.

        Return the indices of those that moved: as many of the first as there are latents.
        """
        candidates = F.normalize(_of_all_ranks(latents).float(), dim=-1) if len(codes) else latents
        moved = codes[: len(candidates)]
        if len(moved) and _decides():
            chosen = torch.multinomial(self._loneliness(candidates), len(moved), generator=generator)
            self.embedding[moved] = candidates[chosen.to(candidates.device)]
        if len(moved):
            self._take_from_rank_0()
        return moved

    def _loneliness(self, candidates: Tensor) -> Tensor:
        """Return (N,), on the CPU, one minus the cosine to the nearest code; not quite zero anywhere."""
        codes = F.normalize(self.embedding, dim=-1)
        similarity = [(part @ codes.T).amax(-1) for part in candidates.split(_ROWS_AT_ONCE)]
        return (1 - torch.cat(similarity)).clamp(min=1e-7).cpu()

    def _take_from_rank_0(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.embedding.data, src=0)

    def __len__(self) -> int:
        return len(self.embedding)


def _decides() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _of_all_ranks(latents: Tensor) -> Tensor:
    """Return the rows of all ranks, which have equally many, in the order of the ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return latents
    parts = [torch.empty_like(latents, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, latents.contiguous())
    return torch.cat(parts)
