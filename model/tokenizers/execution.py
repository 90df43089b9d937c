"""How an encoder is run: where, and in which precision."""

from typing import Literal

from parti_data.config import StrictModel


class Execution(StrictModel):
    """Where a tokenizer's encoder runs. Tokens may differ between devices, so it is part of what decides them."""

    device: Literal["cpu", "cuda"] = "cpu"
