"""How a prior decodes: on which device, in which precision, and a position after the other over caches.

On a GPU the kernels of a step are so short that starting them one by one takes longer than they do. So a step is
captured as a CUDA graph, once for each length to which the caches are read, and replayed; where the mask has what is
read gathered, once for all.
"""

from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from model.attention import CausalMask
from model.priors.prior import Prior
from parti_data.config import StrictModel

_SPAN = 128
"""Positions by which what is read of the caches grows: all at once, a step would be compiled for one shape alone, and
read twice as much."""


class DecodingExecution(StrictModel):
    """Where and how a prior decodes. Another way may draw other tokens, so it is part of what decides them."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Of the image tokenizer's decoder too."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products, that of the logits among them, and the caches; norms and what is drawn are float32 or more."""
    compile: bool = False
    """Whether torch compiles the decoder's blocks before the first step: a minute or so, for long runs on a GPU."""

    @model_validator(mode="after")
    def _refuse_compiled_on_a_cpu(self) -> Self:
        if self.compile and self.device != "cuda":
            raise ValueError(f"compile goes with device cuda, since it gains nothing on a {self.device}")
        return self


def prepare(model: Prior, execution: DecodingExecution) -> Prior:
    """Move a prior to where it decodes, its matrices in their precision, and return it."""
    model.to(execution.device)
    if execution.precision == "bfloat16":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.bfloat16()
    for block in model.decoder if execution.compile else ():
        block.compile()
    return model


class Decoding:
    """The steps of a batch, in order; each leaves its keys and values in the caches."""

    def __init__(self, model: Prior, condition: Tensor):
        self._model, self._device = model, condition.device
        self._caches = model.make_caches(len(condition))
        with self._precision():
            self._context: Any = model.begin(condition, self._caches)
        masks = [module for module in model.modules() if isinstance(module, CausalMask)]
        is_gathered = bool(masks) and all(mask.neighbours is not None for mask in masks)
        self._span = model.shape.num_tokens if is_gathered else _SPAN
        self._last, self._position = condition.new_zeros(len(condition)), condition.new_zeros(1)
        self._end = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)

    def fill(self, image_tokens: Tensor) -> None:
        """Do at once what steps at the first positions would, given their tokens (B, N), N > 0."""
        with self._precision():
            self._model.prefill(image_tokens, self._context, self._caches)

    def step(self, last: Tensor, position: int) -> Tensor:
        """Return logits float32 (B, V) of a position, given the token before it (B); the next step may overwrite them.

        A step may be done again.
        """
        self._last.copy_(last)
        self._position.fill_(position)
        end = self._model.num_before + self._span * (position // self._span + 1)
        if self._device.type != "cuda":
            return self._run(end)
        if self._graph is None or end != self._end:
            self._capture(end)
        assert self._graph is not None
        self._graph.replay()
        return self._logits

    def _run(self, end: int) -> Tensor:
        filled = [(keys[:, :, :end], values[:, :, :end]) for keys, values in self._caches]
        with self._precision():
            return self._model.step(self._last, self._position, self._context, filled)

    def _capture(self, end: int) -> None:
        """Capture a step that reads the caches up to an end. It is run first: libraries set themselves up then."""
        self._run(end)
        torch.cuda.synchronize()
        self._end, self._graph = end, torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._run(end)

    def _precision(self) -> torch.autocast:
        dtype = self._model.to_logits.weight.dtype
        return torch.autocast(self._device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
