"""Which of a prompt's samples are kept: those that fit it best, as a ranker scores them.

Source: Parti, arXiv 2206.10789v1, section 4, where the best of 16 by a contrastive model is taken.
"""

from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from pydantic import PositiveInt

from model.contrastive import Contrastive, load_contrastive
from model.evaluation.clip import Clip, load_clip
from model.evaluation.clip_score import cosines
from model.evaluation.evaluate_config import ClipSettings
from model.sampling.prompts import Prompt, encode_prompts
from model.sampling.sample_files import Drawn
from model.tokenizers import ImageTokenizer
from parti_data.config import StrictModel
from parti_data.errors import CheckpointError, ConfigError, TokenizerError
from parti_data.storage import is_file, sha256_file
from parti_data.text import TextTokenizer


class Ranking(StrictModel):
    """By what samples are ranked, one of two, and how many of a prompt's are kept."""

    model: str = ""
    """The file that train contrastive wrote, which scores image tokens."""
    clip: ClipSettings | None = None
    """A CLIP model, which scores pictures."""
    keep: PositiveInt = 1
    """The best so many have pictures, best first; all others only a row in the table, with their scores. As many as
    samples_per_prompt keeps all, in ranked order."""


class Ranker(Protocol):
    """What scores samples."""

    def scores(self, prompts: list[Prompt], image_tokens: torch.Tensor) -> np.ndarray:
        """Return the cosine float64 (B,) of what the ranker makes of each prompt and of its image tokens (B, I)."""
        ...


class ContrastiveRanker:
    """Scores by a contrastive model over image tokens."""

    def __init__(self, model: Contrastive, text_tokenizer: TextTokenizer, device: torch.device):
        self._model, self._text_tokenizer, self._device = model.to(device), text_tokenizer, device

    @torch.inference_mode()
    def scores(self, prompts: list[Prompt], image_tokens: torch.Tensor) -> np.ndarray:
        """Return float64 (B,) for prompts and image tokens (B, I)."""
        text_ids = encode_prompts(prompts, self._text_tokenizer, self._model.shape.max_text_length)
        scores = self._model.scores(text_ids.to(self._device), image_tokens.to(self._device))
        return scores.double().cpu().numpy()


class ClipRanker:
    """Scores by a CLIP model of the pictures that image tokens are decoded to."""

    def __init__(self, clip: Clip, tokenizer: ImageTokenizer, batch_size: int):
        self._clip, self._tokenizer, self._batch_size = clip, tokenizer, batch_size

    def scores(self, prompts: list[Prompt], image_tokens: torch.Tensor) -> np.ndarray:
        """Return float64 (B,) for prompts and image tokens (B, I)."""
        found = []
        for start in range(0, len(prompts), self._batch_size):
            batch = slice(start, start + self._batch_size)
            pictures = self._clip.picture_features(list(self._tokenizer.decode(image_tokens[batch]).numpy()))
            texts = self._clip.text_features([prompt.text for prompt in prompts[batch]])
            found.append(cosines(pictures, texts))
        return np.concatenate(found)


def open_ranker(
    ranking: Ranking, tokenizer: ImageTokenizer, text_tokenizer: TextTokenizer | None, device: torch.device
) -> Ranker:
    """Return the ranker that the settings name; raises the errors of its file, and TokenizerError where it is one of
    other tokenizers than those of the samples.
    """
    if ranking.clip:
        clip = load_clip(ranking.clip.model, ranking.clip.weights, device)
        return ClipRanker(clip, tokenizer, ranking.clip.batch_size)
    assert text_tokenizer, "a contrastive model reads text"
    loaded = load_contrastive(ranking.model)
    for kind, wanted, found in (
        ("image tokenizer", tokenizer.fingerprint, loaded.image_tokenizer),
        ("text tokenizer", text_tokenizer.fingerprint, loaded.text_tokenizer),
    ):
        if wanted != found:
            raise TokenizerError(
                f"{ranking.model}: expected a ranker of the {kind} {wanted[:12]} that the prior has, found one of "
                f"{found[:12]}; train one on the prior's shards"
            )
    return ContrastiveRanker(loaded.model, text_tokenizer, device)


def ranker_digest(ranking: Ranking) -> str:
    """Return the SHA-256 of the ranker's file; raises ConfigError where there is none."""
    path = ranking.clip.weights if ranking.clip else ranking.model
    if not is_file(path):
        raise ConfigError(f"ranking: expected a file of weights, found none at {path}; make one or check the path")
    return sha256_file(path)


def keep_best(drawn: list[Drawn], keep: int) -> list[Drawn]:
    """Return the samples of some prompts, each prompt's best first, with their ranks; of equal scores the first drawn.

    All of a prompt's stand together. Raises CheckpointError for scores that are not finite.
    """
    if not np.isfinite([one.score or 0.0 for one in drawn]).all():
        raise CheckpointError("ranking: expected finite scores, found others; check the ranker's weights")
    ranked: list[Drawn] = []
    for _, samples in groupby(drawn, key=lambda one: one.place.prompt):
        best_first = sorted(samples, key=lambda one: -(one.score or 0.0))
        ranked += [one._replace(rank=rank, is_kept=rank <= keep) for rank, one in enumerate(best_first, 1)]
    return ranked
