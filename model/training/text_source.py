"""Text that an encoder learns from, wherever it lies: lines of plain text, or the captions of token shards."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from parti_data.caption_ids import CaptionTokenizer, TextReading
from parti_data.errors import ConfigError
from parti_data.line_dataset import LineDataset
from parti_data.storage import is_directory
from parti_data.text_lines import TextLines, find_line_files, index_lines
from parti_data.token_dataset import TokenDataset
from parti_data.token_directory import open_token_directory
from parti_data.token_rows import ShardReading, Share


class TextBatch(Protocol):
    """Some rows of text."""

    @property
    def keys(self) -> Any:
        """What each row is known by."""
        ...

    @property
    def text_ids(self) -> np.ndarray:
        """Unsigned integers (B, T), padded with PAD."""
        ...


class TextRows(Protocol):
    """An endless sequence of rows of text, by batches."""

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        ...

    def batch(self, step: int) -> TextBatch:
        """Return this rank's slice of global batch number `step`."""
        ...

    def epoch(self, number: int) -> Iterator[TextBatch]:
        """Yield the batches of one epoch alone, each row once."""
        ...


class TextSource:
    """Text as a config names it; `where` is the key in which it does.

    Raises ConfigError where there is none, or nothing that makes ids of lines.
    """

    def __init__(self, path: str, where: str, text: TextReading, reading: ShardReading):
        self._path, self._text, self._reading = path, text, reading
        self._files = None if is_directory(path) else find_line_files(path, where)
        if self._files:
            if not text.tokenizer:
                raise ConfigError(
                    f"text.tokenizer: expected the SentencePiece model that makes ids of the lines of {path}, found "
                    "none; make one with parti train text"
                )
            tokenizer, self.digest = CaptionTokenizer(text), self._files.digest
            self.text_tokenizer, self.text_vocabulary_size = tokenizer.fingerprint, tokenizer.vocabulary_size
            return
        self.digest = open_token_directory(path).digest
        tokens = self._tokens(1, 0, Share())
        self.text_tokenizer, self.text_vocabulary_size = tokens.text_tokenizer, tokens.text_vocabulary_size
        tokens.close()

    @property
    def has_lines(self) -> bool:
        """Whether it is lines of plain text, which need an index."""
        return self._files is not None

    def index(self, path: str) -> None:
        """Write the index of lines, where there are some."""
        if self._files:
            index_lines(self._files, path)

    def rows(self, index: str, batch_size: int, seed: int, share: Share) -> TextRows:
        """Return a rank's share of the rows, those of lines by their index."""
        if self._files:
            return LineDataset(TextLines(self._files, index), self._text, batch_size, seed, share)
        return self._tokens(batch_size, seed, share)

    def _tokens(self, batch_size: int, seed: int, share: Share) -> TokenDataset:
        return TokenDataset(
            self._path, batch_size, seed, share.residue, share.modulus, text=self._text, reading=self._reading
        )
