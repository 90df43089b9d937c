"""Images to tokens and back."""

from model.tokenizers.execution import Execution
from model.tokenizers.load import load_tokenizer
from model.tokenizers.network import TokenizerSpec
from model.tokenizers.own_file import save_tokenizer
from model.tokenizers.tokenizer import ImageTokenizer

__all__ = ["Execution", "ImageTokenizer", "TokenizerSpec", "load_tokenizer", "save_tokenizer"]
