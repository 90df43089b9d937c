from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from parti_data.caption_ids import CaptionChoice, CaptionTokenizer, TextReading, choose_captions, pad_lines
from parti_data.text import END, PAD, TextTokenizer

IDS = [[[5, 6, 2], [7, 2]], [], [[8, 9, 10, 11, 12, 2]]]
CAPTIONS = [["a", "b"], [], ["c"]]


def choose(length: int, epoch: int = 0, captions: list = CAPTIONS, ids: list = IDS, weights: tuple = ()):
    lists = pa.array(ids, pa.list_(pa.list_(pa.uint16())))
    choice = CaptionChoice(TextReading(length=length, caption_weights=weights), 7)
    return choice.choose(pa.array(captions, pa.list_(pa.string())), lists, epoch, 100)


def test_a_caption_stands_with_its_ids_and_a_row_without_one_has_an_empty_one():
    lines = {"a": [3, 5, 6, 2, 0, 0, 0, 0, 0], "b": [2, 7, 2, 0, 0, 0, 0, 0, 0], "c": [6, 8, 9, 10, 11, 12, 2, 0, 0]}
    seen = set()
    for epoch in range(20):
        found = choose(8, epoch)
        first, empty, last = found.captions.tolist()
        seen.add(first)
        assert (empty, last) == ("", "c")
        assert found.lines.tolist() == [lines[first], [1, END, 0, 0, 0, 0, 0, 0, 0], lines["c"]]
        assert found.lines.dtype == np.uint16
    assert seen == {"a", "b"}


@pytest.mark.parametrize("weights", [(), (1, 2), (0,)])
def test_rows_without_any_caption_have_empty_ones(weights):
    assert choose(8, weights=weights).captions.tolist()[1:] == ["", "c"]
    found = choose(3, captions=[[], []], ids=[[], []], weights=weights)
    assert found.captions.tolist() == ["", ""]
    assert found.lines.tolist() == [[1, END, 0, 0]] * 2


def test_what_is_cut_ends_with_end_and_says_how_long_it_was():
    assert choose(4).lines.tolist()[2] == [6, 8, 9, 10, END]
    assert choose(1).lines.tolist()[2] == [6, END]


def test_the_choice_is_of_the_row_s_number_and_the_epoch_alone():
    captions, ids = [["a", "b", "c"]] * 50, [[[5, 2], [6, 2], [7, 2]]] * 50
    whole = choose(4, 3, captions, ids).captions.tolist()
    assert choose(4, 3, captions[:20], ids[:20]).captions.tolist() == whole[:20]
    assert choose(4, 4, captions, ids).captions.tolist() != whole


@pytest.mark.parametrize("length", [1, 3, 20])
def test_padding_is_what_a_plain_loop_gives(length):
    generator = np.random.default_rng(0)
    lists = [generator.integers(3, 99, size=generator.integers(0, 9)).tolist() for _ in range(40)]
    sizes = np.array([len(line) for line in lists])
    order = generator.permutation(40)
    starts = (np.cumsum(sizes) - sizes)[order]
    found = pad_lines(starts, sizes[order], np.concatenate(lists).astype(np.uint32), length)
    for number, row in zip(order, found.tolist(), strict=True):
        line = lists[number] or [END]
        cut = line if len(line) <= length else [*line[: length - 1], END]
        assert row == [len(line), *cut, *[PAD] * (length - len(cut))]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((), [1 / 3] * 3), ((1, 1, 2), [0.25, 0.25, 0.5]), ((3, 1), [0.6, 0.2, 0.2]), ((0, 1), [0, 0.5, 0.5])],
)
def test_captions_come_by_their_weights(weights, shares):
    luck = np.random.default_rng(0).random(30_000)
    chosen = choose_captions(np.full(30_000, 3), luck, weights)
    np.testing.assert_allclose(np.bincount(chosen, minlength=3) / 30_000, shares, atol=0.01)


def test_each_row_chooses_among_its_own_captions():
    counts = np.array([1, 2, 5, 1] * 500)
    for weights in ((), (0.1, 2, 1), (1, 0)):
        chosen = choose_captions(counts, np.random.default_rng(0).random(2000), weights)
        assert (chosen < counts).all()
        assert (chosen >= 0).all()
    assert choose_captions(np.array([1]), np.array([0.7]), (0, 1)).tolist() == [0]


def test_captions_are_tokenized_again(text_file):
    tokenizer = TextTokenizer(text_file)
    again = CaptionTokenizer(TextReading(tokenizer=text_file, length=30))
    captions = ["a red circle", "two squares"]
    lines = again.lines(captions, np.zeros(2, np.uint64))
    assert [line[1 : 1 + line[0]].tolist() for line in lines] == [tokenizer.encode(caption) for caption in captions]
    assert (again.vocabulary_size, again.fingerprint) == (tokenizer.vocabulary_size, tokenizer.fingerprint)


def test_bpe_dropout_is_a_function_of_the_caption_and_its_number(text_file):
    again = CaptionTokenizer(TextReading(tokenizer=text_file, length=60, bpe_dropout=0.5))
    tokenizer = TextTokenizer(text_file)
    captions = ["a large red circle above a small blue square"] * 20
    numbers = np.arange(20, dtype=np.uint64) << np.uint64(40)
    lines = again.lines(captions, numbers)
    ids = [tuple(line[1 : 1 + line[0]].tolist()) for line in lines]
    assert len(set(ids)) > 10
    assert {tokenizer.decode(list(line)) for line in ids} == {captions[0]}
    backwards = again.lines(captions[::-1], numbers[::-1])
    np.testing.assert_array_equal(backwards[::-1], lines)


def test_bpe_dropout_draws_as_sentencepiece_does(text_file):
    """At a share of merges near all, words fall apart into characters; at none they are whole."""
    tokenizer = TextTokenizer(text_file)
    caption = "a red circle"
    apart = Counter(len(tokenizer.encode_with_dropout(caption, 0.999, number)) for number in range(10))
    assert max(apart) == len(caption) + 2  # a mark before the first word, and END
    assert tokenizer.encode_with_dropout(caption, 1e-9, 0) == tokenizer.encode(caption)


def test_dropout_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="bpe_dropout goes with tokenizer: ids of the shards are whole"):
        TextReading(bpe_dropout=0.1)
