"""How an encoder is run: where, in which precision, and by which library."""

from typing import Literal, Self

from pydantic import model_validator

from parti_data.config import StrictModel

Precision = Literal["float32", "tf32", "bfloat16", "float16"]


class Execution(StrictModel):
    """Where and how a tokenizer's encoder runs. Another way may give other tokens, so it is part of what decides them.

    The quantizer is always float32.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "float32"
    """Of the encoder: float32 is exact on every device; the others are faster and change some tokens."""
    backend: Literal["torch", "openvino"] = "torch"
    """The library that runs the encoder; openvino is for CPUs and comes with parti[openvino]."""
    compile: bool = False
    """Whether torch compiles the encoder before its first batch: a minute or so, for long runs on a GPU."""

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> Self:
        if self.device == "cpu" and self.precision in ("tf32", "float16"):
            raise ValueError(
                f"precision {self.precision} goes with device cuda, since CPUs have no fast {self.precision}"
            )
        if self.backend == "openvino" and self.device != "cpu":
            raise ValueError(f"backend openvino goes with device cpu, not with {self.device}")
        if self.compile and self.device != "cuda":
            raise ValueError(f"compile goes with device cuda, since it gains nothing on a {self.device}")
        return self


RECORD = Execution()
"""What tokens of every other way are held against: float32, torch, a CPU."""
