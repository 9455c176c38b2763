"""OpenVINO on the CPU plugin: layers of the compiled model's own execution graph.

A layer of a fused kernel (`Subgraph`) counts as many times as names of weighted layers of the
model that was read stand among its `originalLayersNames`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import openvino as ov  # type: ignore[import-not-found, import-untyped, unused-ignore]
from program import Floats, Program

SOURCE = "onnx"
PACKAGES = ("openvino",)
COUNTED = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution"})
MOVES = frozenset({"Input", "Output", "Const", "Reorder", "Reshape", "Transpose"})
WEIGHTED = {"Convolution", "GroupConvolution", "MatMul"}


def build(source: Path, folder: Path) -> Counter[str]:
    """Compile; return how often each layer type is left."""
    (folder / "model.onnx").write_bytes(source.read_bytes())
    read = ov.Core().read_model(source)
    weighted = {op.get_friendly_name() for op in read.get_ops() if op.get_type_name() in WEIGHTED}
    found: Counter[str] = Counter()
    for layer in _compiled(source, 1).get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        kind = str(info["layerType"].astype(str))
        found[kind] += 1
        if kind not in COUNTED:
            names = str(info["originalLayersNames"].astype(str)).split(",")
            found["MatMul"] += sum(name in weighted for name in names)
    return +found


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Compile on `threads` threads in float32 and make one inference request."""
    compiled = _compiled(folder / "model.onnx", threads)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x))

    def output() -> Floats:
        found: Floats = request.get_output_tensor().data.copy()
        return found

    count = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return Program(request.infer, output, count, owned=(x,))


def _compiled(source: Path, threads: int) -> Any:
    # Without the hint, a processor with bfloat16 instructions would compute in bfloat16.
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(source, "CPU", settings)
