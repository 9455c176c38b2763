"""One signature of a LiteRT model, for `targets/serving/serve.py` on a device.

The file of an int8 model takes and returns int8: what it stands for is converted here, outside of what
is timed. It runs under `ai-edge-litert` and under the older `tflite-runtime`. A signature is a
subgraph of the file; the interpreter's public `invoke` runs the first one, its `SignatureRunner` any,
but sets its tensors anew each time, so that they are run by what that class calls itself.
"""

from __future__ import annotations

from typing import Any

import numpy

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter  # type: ignore[import-not-found, unused-ignore]


class Method:
    """A signature of a loaded model."""

    def __init__(self, program: str, document: dict[str, Any], name: str, threads: int) -> None:
        """Load the model on `threads` threads."""
        self.specs = document["methods"][name]
        self.interpreter = Interpreter(program, num_threads=threads)
        self.interpreter.allocate_tensors()
        signature = self.interpreter.get_signature_runner(name)
        self.subgraph = signature._subgraph_index
        self.inputs = self.ordered(signature.get_input_details(), "args_")
        self.results = self.ordered(signature.get_output_details(), "output_")
        self.wrapped = self.interpreter._interpreter
        self.wrapped.AllocateTensors(self.subgraph)
        wrapped, subgraph = self.wrapped, self.subgraph
        self.run = lambda: wrapped.Invoke(subgraph)

    def ordered(self, details: dict[str, dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
        """Return the tensors of a signature in the order of their number."""
        return [details[name] for name in sorted(details, key=lambda n: int(n.removeprefix(prefix)))]

    def bind(self, arrays: list[Any]) -> None:
        """Copy the inputs into the interpreter, in the file's own dtype."""
        for tensor, array in zip(self.inputs, arrays, strict=True):
            self.wrapped.SetTensor(tensor["index"], stored(array, tensor), self.subgraph)

    def outputs(self) -> list[tuple[Any, str]]:
        """Return the last results in the dtype of the model."""
        names = [spec["dtype"] for spec in self.specs["outputs"]]
        found = [self.wrapped.GetTensor(tensor["index"], self.subgraph) for tensor in self.results]
        return [(meant(a, t, n), n) for a, t, n in zip(found, self.results, names, strict=True)]


def stored(array: Any, tensor: dict[str, Any]) -> Any:
    """Return an array in the dtype of a tensor: narrowed to 32 bits, or quantized."""
    scale, zero_point = tensor["quantization"]
    dtype = numpy.dtype(tensor["dtype"])
    if not scale or array.dtype.kind != "f":
        return array.astype(dtype, copy=False)
    limits = numpy.iinfo(dtype)
    codes = numpy.round(array / numpy.float32(scale)) + zero_point
    return numpy.clip(codes, limits.min, limits.max).astype(dtype)


def meant(array: Any, tensor: dict[str, Any], dtype: str) -> Any:
    """Return what a tensor stands for, in the model's dtype."""
    scale, zero_point = tensor["quantization"]
    if scale and numpy.dtype(dtype).kind == "f":
        array = (array.astype(numpy.float32) - zero_point) * numpy.float32(scale)
    return numpy.asarray(array).astype(dtype, copy=False)
