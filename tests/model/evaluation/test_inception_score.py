import numpy as np
import pytest

from model.evaluation.inception_score import inception_score
from parti_data.errors import ConfigError


def test_the_score_of_sure_and_even_predictions_is_the_number_of_classes():
    logits = np.tile(1000 * np.eye(5), (8, 1))
    assert inception_score(logits, 4) == pytest.approx((5, 0), abs=1e-9)


def test_the_score_of_equal_predictions_is_one_however_large_their_logits():
    logits = np.tile(np.linspace(-900, 900, 7), (20, 1)).astype(np.float32)
    assert inception_score(logits) == pytest.approx((1, 0), abs=1e-9)


def test_the_score_equals_that_by_entropies_in_each_split():
    logits = np.random.default_rng(0).normal(0, 2, (90, 6)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    scores = []
    for start in range(3):
        split = p[start::3]
        marginal = split.mean(axis=0)
        conditional_entropy = -np.mean(np.sum(split * np.log(split), axis=1))
        scores.append(np.exp(-np.sum(marginal * np.log(marginal)) - conditional_entropy))
    assert inception_score(logits, 3) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_splits_go_through_prompts_that_come_one_after_another():
    blocks = np.repeat(1000 * np.eye(4), 10, axis=0)
    assert inception_score(blocks, 10).mean == pytest.approx(4)


def test_fewer_samples_than_splits_are_refused():
    with pytest.raises(ConfigError, match="expected at least 10 samples, one a split, found 9; give more"):
        inception_score(np.zeros((9, 4)))
