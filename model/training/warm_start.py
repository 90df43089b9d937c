"""Training that begins with a text encoder which has learned before.

Source: Parti, arXiv 2206.10789v1, section 2.2 and appendix G: its 20B model begins so; at 3B it helped the loss little.
"""

from dataclasses import fields, replace

from model.text_encoder import TextEncoder, TextEncoderShape
from model.text_encoder_file import load_text_encoder
from parti_data.errors import ConfigError


def read_start(path: str, shape: TextEncoderShape, text_tokenizer: str) -> TextEncoder:
    """Return the text encoder of a file.

    Raises ConfigError where it is not one for this architecture, whatever its dropout, or for another text tokenizer.
    """
    loaded = load_text_encoder(path)
    if loaded.text_tokenizer != text_tokenizer:
        raise ConfigError(
            f"start_from: expected a text encoder of the text tokenizer {text_tokenizer[:12]} that gives the ids, "
            f"found one of {loaded.text_tokenizer[:12]} in {path}; train one with that tokenizer"
        )
    wanted, found = shape.text_encoder, replace(loaded.shape, dropout=shape.dropout)
    for name in (field.name for field in fields(wanted)):
        mine, its = getattr(wanted, name), getattr(found, name)
        if mine != its:
            raise ConfigError(
                f"start_from: expected {name} {mine} as in architecture, found {its} in {path}; change architecture, "
                "or train a text encoder like it"
            )
    return loaded.encoder
