"""Images to tokens and back."""

from model.tokenizers.execution import RECORD, Execution
from model.tokenizers.load import load_tokenizer
from model.tokenizers.network import TokenizerSpec
from model.tokenizers.own_file import save_tokenizer
from model.tokenizers.precision import measure_precision
from model.tokenizers.tokenizer import ImageTokenizer

__all__ = [
    "RECORD",
    "Execution",
    "ImageTokenizer",
    "TokenizerSpec",
    "load_tokenizer",
    "measure_precision",
    "save_tokenizer",
]
