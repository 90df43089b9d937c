"""Images to tokens and back."""

from model.tokenizers.choices import Choices, Reading
from model.tokenizers.encoder import refuse_missing
from model.tokenizers.execution import RECORD, Execution
from model.tokenizers.load import load_tokenizer, open_network, open_tokenizer, tokenizer_files
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.own_file import save_tokenizer
from model.tokenizers.precision import measure_precision
from model.tokenizers.tokenizer import ImageTokenizer

__all__ = [
    "RECORD",
    "Choices",
    "Execution",
    "ImageTokenizer",
    "Reading",
    "TokenizerNetwork",
    "TokenizerSpec",
    "load_tokenizer",
    "measure_precision",
    "open_network",
    "open_tokenizer",
    "refuse_missing",
    "save_tokenizer",
    "tokenizer_files",
]
