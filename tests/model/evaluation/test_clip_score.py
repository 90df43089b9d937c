import numpy as np
import pytest

from model.evaluation.clip_score import clip_scores


def test_the_score_is_100_times_the_cosine_whatever_the_lengths():
    images = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    texts = np.array([[5.0, 0.0], [7.0, 0.0], [0.0, 0.5]], np.float32)
    assert clip_scores(images, texts) == pytest.approx([100, 0, 100 * np.sqrt(0.5)])


def test_a_prompt_that_points_away_scores_nothing():
    assert clip_scores(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.1]])).tolist() == [0]
