import math

import numpy as np
import pytest
import torch

from model.contrastive import Embeddings
from model.training.contrastive_loss import contrastive_loss, mark_rows, retrieval_accuracy
from model.training.ranks import Ranks

SCALE = 12.0


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def loss_of(texts: np.ndarray, images: np.ndarray, captions: list[str], keys: list[str]) -> float:
    embeddings = Embeddings(torch.tensor(texts).float(), torch.tensor(images).float())
    marks = torch.tensor(mark_rows(captions, keys))
    return contrastive_loss(embeddings, marks, torch.tensor(math.log(SCALE)), Ranks()).item()


def reference(texts: np.ndarray, images: np.ndarray, captions: list[str], keys: list[str]) -> float:
    """In float64, row by row; negatives are rows with another caption and another image."""
    terms = []
    for row in range(len(texts)):
        others = [n for n in range(len(texts)) if captions[n] != captions[row] and keys[n] != keys[row]]
        for mine, theirs in ((texts, images), (images, texts)):
            own = math.exp(SCALE * mine[row] @ theirs[row])
            terms.append(-math.log(own / (own + sum(math.exp(SCALE * mine[row] @ theirs[n]) for n in others))))
    return sum(terms) / len(terms)


def test_without_recurring_rows_it_is_clips_loss():
    texts, images = unit(6, 0), unit(6, 1)
    logits = torch.tensor(SCALE * texts @ images.T)
    labels = torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    wanted = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2  # CLIP's figure 3
    found = loss_of(texts, images, list("abcdef"), list("uvwxyz"))
    assert found == pytest.approx(wanted.item(), abs=1e-5)
    assert found == pytest.approx(reference(texts, images, list("abcdef"), list("uvwxyz")), abs=1e-5)


@pytest.mark.parametrize(
    ("captions", "keys"), [("abacda", "uvwxyz"), ("abcdef", "uvuuyz"), ("abacda", "uuwxwz"), ("aaaaaa", "uvwxyz")]
)
def test_rows_of_one_caption_or_one_image_are_not_each_others_negatives(captions, keys):
    texts, images = unit(6, 2), unit(6, 3)
    found = loss_of(texts, images, list(captions), list(keys))
    assert found == pytest.approx(reference(texts, images, list(captions), list(keys)), abs=1e-5)


def test_marks_are_the_same_for_equal_texts_alone():
    marks = mark_rows(["a ring", "a star", "a ring", ""], ["k", "l", "m", "k"])
    assert marks.shape == (4, 2)
    assert marks[0, 0] == marks[2, 0] != marks[1, 0]
    assert marks[0, 1] == marks[3, 1]
    assert len(set(marks.ravel().tolist())) == 6


def test_the_temperature_learns_too():
    log_scale = torch.tensor(math.log(SCALE), requires_grad=True)
    texts, images = unit(6, 0), unit(6, 1)
    embeddings = Embeddings(torch.tensor(texts).float(), torch.tensor(images).float())
    contrastive_loss(embeddings, torch.tensor(mark_rows("abcdef", "uvwxyz")), log_scale, Ranks()).backward()
    step = 1e-5

    def at(scale: float) -> float:
        logits = torch.tensor(scale * texts @ images.T)
        return sum(torch.nn.functional.cross_entropy(side, torch.arange(6)).item() for side in (logits, logits.T)) / 2

    wanted = (at(SCALE * math.exp(step)) - at(SCALE * math.exp(-step))) / (2 * step)
    assert log_scale.grad.item() == pytest.approx(wanted, abs=1e-4)


def test_found_is_what_is_nearest_or_reads_the_same():
    """Texts 0 and 3 have one caption. Text 0 finds image 3, which is right; text 1 image 0, which is wrong; image 2
    finds text 1.
    """
    images = torch.eye(4)
    texts = torch.tensor([[0.1, 0, 0, 0.9], [0.8, 0.1, 0.5, 0], [0, 0.2, 0.4, 0.1], [0, 0.1, 0.2, 0.7]])
    marks = torch.tensor(mark_rows("abca", "wxyz"))
    found = retrieval_accuracy(Embeddings(texts, images), marks)
    assert found == {"text_to_image_accuracy": 0.75, "image_to_text_accuracy": 0.25}
