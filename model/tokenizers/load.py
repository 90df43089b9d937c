"""One way to open every image tokenizer."""

from model.tokenizers.execution import Execution
from model.tokenizers.own_file import read_own_tokenizer
from model.tokenizers.tokenizer import ImageTokenizer
from parti_data.errors import TokenizerError
from parti_data.storage import is_file


def load_tokenizer(path: str, execution: Execution | None = None) -> ImageTokenizer:
    """Return the tokenizer in a file; raises TokenizerError."""
    if not is_file(path):
        raise TokenizerError(f"{path}: expected a tokenizer file, found none; make one with parti train tokenizer")
    return ImageTokenizer(read_own_tokenizer(path), execution)
