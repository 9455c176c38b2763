"""MNN: operators of the model `mnnconvert` writes, read from its own JSON dump.

MNN turns a matrix product with constant weights into a `Convolution`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import MNN  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np
from program import Floats, Program

SOURCE = "onnx"
PACKAGES = ("MNN",)
COUNTED = frozenset({"Convolution", "ConvolutionDepthwise", "Deconvolution", "InnerProduct", "MatMul"})
SHAPES = {"Shape", "Rank", "Const", "Concat", "Reshape", "SliceTf", "StridedSlice", "Squeeze", "Unsqueeze"}
MOVES = frozenset({"Input", "ConvertTensor", *SHAPES})
CONVERT = str(Path(sys.executable).parent / "mnnconvert")


def build(source: Path, folder: Path) -> Counter[str]:
    """Convert, dump, and return how often each operator is left."""
    model, dump = folder / "model.mnn", folder / "model.json"
    _run("-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(model), "--bizCode", "edgewright")
    _run("-f", "MNN", "--modelFile", str(model), "--JsonFile", str(dump))
    return Counter(str(op["type"]) for op in json.loads(dump.read_text(encoding="utf-8"))["oplists"])


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Open a CPU session in high precision, which is float32."""
    interpreter = MNN.Interpreter(str(folder / "model.mnn"))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    place = interpreter.getSessionInput(session)
    place.copyFrom(MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe))
    result = interpreter.getSessionOutput(session)

    def output() -> Floats:
        shape = result.getShape()
        host = MNN.Tensor(
            shape,
            MNN.Halide_Type_Float,
            np.zeros(shape, np.float32),
            MNN.Tensor_DimensionType_Caffe,
        )
        result.copyToHostTensor(host)
        return np.array(host.getData(), dtype=np.float32).reshape(shape)

    return Program(lambda: interpreter.runSession(session), output, threads)


def _run(*arguments: str) -> None:
    subprocess.run([CONVERT, *arguments], check=True, stdout=sys.stderr)
