import hashlib
import io
from pathlib import Path

import pytest
import sentencepiece

from parti_data.errors import TokenizerError
from parti_data.scenes import make_scene
from parti_data.text import END, PAD, UNKNOWN, TextTokenizer, train_sentencepiece


def captions() -> list[str]:
    return [make_scene(0, index).caption() for index in range(60)]


def test_decoding_undoes_encoding(text_file):
    tokenizer = TextTokenizer(text_file)
    for caption in captions():
        ids = tokenizer.encode(caption)
        assert tokenizer.decode(ids) == tokenizer.decode([*ids, PAD, PAD]) == caption
        assert ids[-1] == END
        assert PAD not in ids
        assert UNKNOWN not in ids
        assert max(ids) < tokenizer.vocabulary_size


def test_no_text_is_the_end_alone(text_file):
    assert TextTokenizer(text_file).encode("") == [END]


def test_the_same_captions_give_the_same_model():
    model = train_sentencepiece(iter(captions()), 100, 0)
    assert model == train_sentencepiece(iter(captions()), 100, 0)
    assert model != train_sentencepiece(iter(captions()), 90, 0)


def test_a_model_in_lower_case_reads_capitals_as_small_letters_whoever_reads(tmp_path):
    lines = ["A red RING", "École Straße ＡＢＣ", "ring red a"] * 20
    path = tmp_path / "text.model"
    path.write_bytes(train_sentencepiece(iter(lines), 30, 0, lower_case=True))
    tokenizer = TextTokenizer(str(path))
    for caption in ("A Red ring", "ÉCOLE", "Straße ABC"):
        assert tokenizer.encode(caption) == tokenizer.encode(caption.lower())
        dropped = tokenizer.encode_with_dropout(caption, 0.5, 7)
        assert dropped == tokenizer.encode_with_dropout(caption.lower(), 0.5, 7)
        assert tokenizer.decode(dropped) == tokenizer.decode(tokenizer.encode(caption)) == caption.lower()


def test_a_models_letters_are_as_captions_have_them_unless_it_is_told(tmp_path):
    path = tmp_path / "text.model"
    path.write_bytes(train_sentencepiece(iter(["A red RING", "a red ring"] * 20), 20, 0))
    tokenizer = TextTokenizer(str(path))
    assert tokenizer.encode("A RING") != tokenizer.encode("a ring")


def test_the_fingerprint_is_the_digest_of_the_file(text_file):
    assert TextTokenizer(text_file).fingerprint == hashlib.sha256(Path(text_file).read_bytes()).hexdigest()
    assert TextTokenizer(text_file).vocabulary_size == 128


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="none.model: expected a SentencePiece model, found none; make one with"):
        TextTokenizer(f"{tmp_path}/none.model")


def test_other_bytes_are_refused(tmp_path):
    (tmp_path / "text.model").write_bytes(b"not a model at all")
    with pytest.raises(TokenizerError, match="expected a SentencePiece model, found other bytes; check the path"):
        TextTokenizer(f"{tmp_path}/text.model")


def test_too_little_text_for_a_vocabulary_is_refused():
    with pytest.raises(TokenizerError, match="expected enough text for 5000 pieces, found .*; lower vocabulary_size"):
        train_sentencepiece(iter(captions()), 5000, 0)


def test_too_small_a_vocabulary_for_the_characters_is_refused():
    found = "expected few enough characters for 4 pieces, found .* required_chars. 4 vs .*; raise vocabulary_size"
    with pytest.raises(TokenizerError, match=found):
        train_sentencepiece(iter(captions()), 4, 0)


@pytest.mark.parametrize(
    ("ids", "is_taken"),
    [
        ({"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, False),  # T5's
        ({}, False),  # SentencePiece's own: what is unknown is 0
        ({"byte_fallback": True}, True),  # LLaMA's
    ],
)
def test_a_model_whose_special_ids_mean_something_else_is_refused(tmp_path, ids, is_taken):
    model, lines = io.BytesIO(), ["a red square", "a blue circle"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=300, model_type="bpe", hard_vocab_limit=False,
        minloglevel=2, **ids,
    )  # fmt: skip
    path = tmp_path / "other.model"
    path.write_bytes(model.getvalue())
    if is_taken:
        assert TextTokenizer(str(path)).encode("a red")[-1] == END
        return
    found = f"end {ids.get('eos_id', 2)}, unknown {ids.get('unk_id', 0)}; make one with parti train text"
    with pytest.raises(TokenizerError, match=f"expected a SentencePiece model with end 2 and padding 0, found {found}"):
        TextTokenizer(str(path))
