"""ONNX Runtime: operations of the model it saves at the EXTENDED level; run as a session by default is.

EXTENDED is counted because the level above it, ALL, is about layouts of the processor at hand and
renames what it touches. Sessions that are timed use the default, ALL.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx  # type: ignore[import-not-found, import-untyped, unused-ignore]
import onnxruntime as ort  # type: ignore[import-not-found, import-untyped, unused-ignore]
from program import Floats, Program

SOURCE = "onnx"
PACKAGES = ("onnxruntime",)
COUNTED = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"})
MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"})


def build(source: Path, folder: Path) -> Counter[str]:
    """Let ORT optimise and save the model; return how often each operation is left."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "extended.onnx")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    (folder / "model.onnx").write_bytes(source.read_bytes())
    return Counter(node.op_type for node in onnx.load(folder / "extended.onnx").graph.node)


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Open a session of the model as it was exported, with ORT's default optimisation."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, x)
    binding.bind_output(session.get_outputs()[0].name, "cpu")

    def output() -> Floats:
        found: Floats = binding.copy_outputs_to_cpu()[0]
        return found

    def step() -> None:
        session.run_with_iobinding(binding)

    return Program(step, output, options.intra_op_num_threads, owned=(x,))
