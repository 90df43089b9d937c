"""CLIP score: how well pictures fit their prompts, by the angle between the features of both."""

import numpy as np


def cosines(image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle of each row of features (N, D) with that of the other's, float64 (N,)."""
    return np.sum(_normalised(image_features) * _normalised(text_features), axis=1)


def clip_scores(image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
    """Return 100 max(cos, 0), float64 (N,), of features (N, D) of pictures and of their prompts, of any length.

    Source: "CLIPScore", arXiv 2104.08718, section 3, which has 2.5 in place of 100; with 100 it is as models are
    compared by it. Scores of different CLIP models do not compare.
    """
    return 100 * np.maximum(cosines(image_features, text_features), 0.0)


def _normalised(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)
