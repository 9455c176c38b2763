"""LiteRT through litert-torch: operators of the flatbuffer it writes, as its interpreter lists them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    Interpreter,
    OpResolverType,
)
from program import Floats, Program

SOURCE = "pt2"
PACKAGES = ("litert-torch", "ai-edge-litert")
COUNTED = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
)
MOVES = frozenset({"TRANSPOSE", "RESHAPE"})


def build(source: Path, folder: Path) -> Counter[str]:
    """Convert; return how often each operator stands in the flatbuffer."""
    import litert_torch  # type: ignore[import-not-found, import-untyped, unused-ignore]

    exported = torch.export.load(source)
    args = exported.example_inputs[0]
    litert_torch.convert(exported.module(), args).export(str(folder / "model.tflite"))
    # The default resolver would list the delegate that took the operators as one more of them.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    plain = Interpreter(str(folder / "model.tflite"), experimental_op_resolver_type=resolver)
    return Counter(str(op["op_name"]) for op in plain._get_ops_details())


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Open the flatbuffer with the default delegate, XNNPACK."""
    interpreter = Interpreter(str(folder / "model.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    place = interpreter.get_output_details()[0]["index"]

    def output() -> Floats:
        return np.array(interpreter.get_tensor(place))

    return Program(interpreter.invoke, output, threads)
