"""Images to tokens and back."""

from model.tokenizers.tokenizer import ImageTokenizer, TokenizerSpec, load_tokenizer, save_tokenizer

__all__ = ["ImageTokenizer", "TokenizerSpec", "load_tokenizer", "save_tokenizer"]
