"""Images to tokens and back."""

from model.tokenizers.choices import Choices, Reading
from model.tokenizers.execution import RECORD, Execution
from model.tokenizers.load import load_tokenizer, open_tokenizer, tokenizer_files
from model.tokenizers.network import TokenizerSpec
from model.tokenizers.own_file import save_tokenizer
from model.tokenizers.precision import measure_precision
from model.tokenizers.tokenizer import ImageTokenizer

__all__ = [
    "RECORD",
    "Choices",
    "Execution",
    "ImageTokenizer",
    "Reading",
    "TokenizerSpec",
    "load_tokenizer",
    "measure_precision",
    "open_tokenizer",
    "save_tokenizer",
    "tokenizer_files",
]
