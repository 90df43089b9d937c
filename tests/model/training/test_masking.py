import numpy as np
import pytest

from model.training.masking import mask_text
from parti_data.keyed_random import stream_key
from parti_data.text import END, PAD

VOCABULARY = 100
KEY = stream_key(0, 7)


def text(lengths: np.ndarray, width: int) -> np.ndarray:
    """Ids from 3 on, then END, then padding."""
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (len(lengths), width)).astype(np.uint16)
    places = np.arange(width)
    ids[places[None] == lengths[:, None]] = END
    ids[places[None] > lengths[:, None]] = PAD
    return ids


def test_of_each_row_15_percent_are_chosen_one_at_least_and_never_what_ends_it():
    lengths = np.arange(60) % 40
    ids = text(lengths, 41)
    masked = mask_text(ids, np.arange(60), VOCABULARY, KEY)
    wanted = [0 if not length else max(1, round(0.15 * length)) for length in lengths.tolist()]
    assert masked.is_chosen.sum(1).tolist() == wanted
    assert not masked.is_chosen[(ids == END) | (ids == PAD)].any()


def test_of_the_chosen_80_percent_are_masked_10_replaced_by_any_piece_and_10_left():
    ids = text(np.full(20_000, 40), 41)
    masked = mask_text(ids, np.arange(20_000), VOCABULARY, KEY)
    assert masked.is_chosen.sum() == 120_000
    shown = masked.is_chosen & ~masked.is_masked
    is_replaced = masked.read_ids != ids
    assert not (masked.is_masked & ~masked.is_chosen).any()
    assert (is_replaced <= shown).all()
    deviation = (0.1 * 0.9 / 120_000) ** 0.5
    assert masked.is_masked.sum() / 120_000 == pytest.approx(0.8, abs=6 * deviation)
    by_chance = 1 / (VOCABULARY - 3)  # a piece replaced by itself
    assert is_replaced.sum() / 120_000 == pytest.approx(0.1 * (1 - by_chance), abs=5 * deviation)
    pieces = np.bincount(masked.read_ids[is_replaced], minlength=VOCABULARY)
    assert (pieces[:3] == 0).all()
    assert pieces[3:].min() > 0.5 * pieces[3:].max()
    chosen = masked.is_chosen[:, :40].mean(0)
    assert np.abs(chosen - 0.15).max() < 6 * (0.15 * 0.85 / 20_000) ** 0.5


def test_what_is_hidden_of_a_row_is_a_function_of_its_number_and_the_key():
    ids = text(np.full(8, 20), 30)
    whole = mask_text(ids, np.arange(8), VOCABULARY, KEY)
    part = mask_text(ids[1::2, :22], np.arange(1, 8, 2), VOCABULARY, KEY)  # other rows beside it, less padding
    for mine, its in zip(part, whole, strict=True):
        assert np.array_equal(mine, its[1::2, :22])
    same = mask_text(np.repeat(ids[:1], 8, 0), np.arange(8), VOCABULARY, KEY).is_chosen
    assert len({row.tobytes() for row in same}) == 8
    other = mask_text(ids, np.arange(8), VOCABULARY, stream_key(0, 8))
    assert not np.array_equal(other.is_chosen, whole.is_chosen)


def test_a_text_without_words_has_nothing_to_tell():
    masked = mask_text(np.array([[END, PAD]], np.uint16), np.zeros(1, int), VOCABULARY, KEY)
    assert not masked.is_chosen.any()
