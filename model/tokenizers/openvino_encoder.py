"""An encoder run by OpenVINO, on CPUs: converted in memory when the first batch of a shape comes, kept on no disk.

Each worker's thread has a stream of one thread to itself, so that a batch takes the same way whoever else is at work.
"""

import os
import sys
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from model.tokenizers.execution import Precision
from parti_data.errors import TokenizerError

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def import_openvino() -> Any:
    """Return the library, without what tells its makers of every conversion; raises TokenizerError without it.

    Its converter takes a stand-in of its own, that does nothing, where the package for that is missing.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ModuleNotFoundError:
        raise TokenizerError(
            "execution.backend=openvino: expected OpenVINO where images are encoded, found none; pip install "
            "'parti[openvino]' or use torch"
        ) from None
    return openvino


def can_bfloat16() -> bool:
    """Whether OpenVINO works in bfloat16 on this processor; where not, it takes float32 and does not say so."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEncoder:
    """Calls a module, of one tensor and one result in float32, by OpenVINO; raises TokenizerError where it is missing.

    LlamaGen's VQ-16 at 256 px on one Zen 5 core: 1.7 times as fast as plain torch, 7 s to convert.
    """

    def __init__(self, module: nn.Module, precision: Precision):
        self._openvino, self._module, self._precision = import_openvino(), module, precision
        self._compiled: dict[torch.Size, Any] = {}
        self._compiling = threading.Lock()
        self._mine = threading.local()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the module's result, float32."""
        requests = self._mine.__dict__
        key = str(tuple(inputs.shape))
        if key not in requests:
            requests[key] = self._compile(inputs).create_infer_request()
        (found,) = requests[key].infer([inputs.contiguous().numpy()]).values()
        return torch.from_numpy(found.copy())  # the request writes into its own array again

    def _compile(self, inputs: Tensor) -> Any:
        """Return the module compiled for a shape, once for all threads."""
        with self._compiling:
            if inputs.shape not in self._compiled:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of shapes that tracing takes as given: here they are
                    model = self._openvino.convert_model(
                        self._module, example_input=inputs.clone(), input=[tuple(inputs.shape)]
                    )
                self._compiled[inputs.shape] = self._openvino.Core().compile_model(model, "CPU", self._settings())
            return self._compiled[inputs.shape]

    def _settings(self) -> dict[str, str | int]:
        streams = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
        return {
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * torch.get_num_threads(),
            "ENABLE_CPU_PINNING": "NO",
        }
