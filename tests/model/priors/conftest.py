"""What the tests of every family of priors share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.priors.prior import Prior
from parti_data.token_shard import ShardMetadata


@pytest.fixture(scope="session")
def metadata() -> ShardMetadata:
    """What shards tell a prior's file."""
    return ShardMetadata(
        image_tokenizer="aa", image_tokenizer_name="x", codebook_size=64, grid_side=4, image_side=32, resize_recipe="r",
        resize_library="l", precision="float32", text_tokenizer="bb", text_vocabulary_size=32, config_digest="c",
        input_digest="i",
    )  # fmt: skip


@pytest.fixture(scope="session")
def compare_steps() -> Callable[[Prior, Tensor, Tensor], None]:
    """Hold steps over caches, from an image's first position and from its sixth, against the whole at once."""

    @torch.no_grad()
    def compare(model: Prior, condition: Tensor, image_tokens: Tensor) -> None:
        whole = model(condition, image_tokens)
        for start in (0, 5):
            caches = model.make_caches(len(image_tokens))
            context = model.begin(condition, caches)
            if start:
                model.prefill(image_tokens[:, :start], context, caches)
            for position in range(start, image_tokens.shape[1]):
                last = image_tokens[:, max(position - 1, 0)]
                found = model.step(last, torch.tensor([position]), context, caches)
                torch.testing.assert_close(found, whole[:, position], atol=1e-5, rtol=1e-4)

    return compare
