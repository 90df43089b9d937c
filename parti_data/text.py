"""SentencePiece text ids: training, encoding, and the fingerprint that shards carry."""

import hashlib
import io
import threading
from collections.abc import Iterator

import sentencepiece

from parti_data.errors import TokenizerError
from parti_data.storage import is_file, read_bytes

PAD, UNKNOWN, END = 0, 1, 2
"""The special ids; a caption's ids close with END, and END alone stands for no text."""
_SEEDS = (1 << 32) - 1
"""SentencePiece takes the largest 32-bit number for "no seed"."""
_SEEDING = threading.Lock()


class TextTokenizer:
    """Captions to ids and back."""

    def __init__(self, path: str):
        if not is_file(path):
            raise TokenizerError(f"{path}: expected a SentencePiece model, found none; make one with parti train text")
        model = read_bytes(path)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise TokenizerError(f"{path}: expected a SentencePiece model, found other bytes; check the path") from None
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.vocabulary_size: int = self._processor.vocab_size()
        self._refuse_other_ids(path)

    def _refuse_other_ids(self, path: str) -> None:
        """Raise TokenizerError where END is an ordinary piece, or where what is unknown would be padding.

        Nothing is unknown to a model with pieces for single bytes, as LLaMA's, whose padding has no id.
        """
        told = self._processor
        has_bytes = any(told.is_byte(piece) for piece in range(self.vocabulary_size))
        if told.eos_id() != END or (told.unk_id() == PAD and not has_bytes):
            raise TokenizerError(
                f"{path}: expected a SentencePiece model with end {END} and padding {PAD}, found end {told.eos_id()}, "
                f"unknown {told.unk_id()}; make one with parti train text"
            )

    def encode(self, caption: str) -> list[int]:
        """Return the ids of a caption, END last."""
        return [*self._processor.encode(caption), END]

    def encode_with_dropout(self, caption: str, dropout: float, number: int) -> list[int]:
        """Return the ids of a caption, END last, with a share of BPE's merges left out; `number` decides which.

        SentencePiece draws from a generator of the thread, which takes the global seed when the thread first draws: so
        each caption has a thread of its own, and its ids are the same whoever asks and whatever was drawn before.
        """
        drawn: list[list[int]] = []
        options = {"enable_sampling": True, "alpha": dropout, "nbest_size": -1}
        thread = threading.Thread(target=lambda: drawn.append(self._processor.encode(caption, **options)))
        with _SEEDING:
            sentencepiece.set_random_generator_seed(number % _SEEDS)
            thread.start()
            thread.join()
        return [*drawn[0], END]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        return self._processor.decode([int(i) for i in ids if i != PAD])


def train_sentencepiece(captions: Iterator[str], vocabulary_size: int, seed: int, lower_case: bool = False) -> bytes:
    """Return a SentencePiece BPE model of so many pieces, trained on the captions, perhaps in lower case.

    Lower case is a rule of the model's own, so that whoever reads with it gives captions and prompts the same ids as in
    lower case, and none needs to be told. Letters of two forms alone are folded: a dotted capital I stays.

    Parti uses 16,000 pieces and does not state the model type; DALL-E uses BPE, and BPE keeps the words of a small
    vocabulary whole, where SentencePiece's default, unigram, cut the scenes' captions into three times as many ids.
    """
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=captions, model_writer=model, vocab_size=vocabulary_size, model_type="bpe",
            character_coverage=1.0, pad_id=PAD, unk_id=UNKNOWN, bos_id=-1, eos_id=END,
            normalization_rule_name="nmt_nfkc_cf" if lower_case else "nmt_nfkc",
            num_threads=1, input_sentence_size=1_000_000, shuffle_input_sentence=True, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        found = " ".join(str(error).split())
        if "required_chars" in found:
            raise TokenizerError(
                f"captions: expected few enough characters for {vocabulary_size} pieces, found {found}; raise "
                "vocabulary_size"
            ) from None
        raise TokenizerError(
            f"captions: expected enough text for {vocabulary_size} pieces, found {found}; lower vocabulary_size"
        ) from None
    return model.getvalue()
