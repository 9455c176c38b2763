"""onnxslim: operations of the model it writes. It has no runtime: onnx's own reference evaluator runs it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx  # type: ignore[import-not-found, import-untyped, unused-ignore]
import onnxslim  # type: ignore[import-not-found, import-untyped, unused-ignore]
from onnx.reference import ReferenceEvaluator  # type: ignore[import-not-found, import-untyped, unused-ignore]
from program import Floats, Program

SOURCE = "onnx"
PACKAGES = ("onnxslim",)
COUNTED = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose"})
MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"})


def build(source: Path, folder: Path) -> Counter[str]:
    """Slim the model; return how often each operation is left."""
    slimmed = onnxslim.slim(onnx.load(source))
    onnx.save(slimmed, folder / "model.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Open the slimmed model in the reference evaluator, whose latency says nothing."""
    evaluator: Any = ReferenceEvaluator(str(folder / "model.onnx"))
    name = evaluator.input_names[0]

    def output() -> Floats:
        found: Floats = evaluator.run(None, {name: x})[0]
        return found

    return Program(lambda: None, output, threads)
