"""TVM Relax: ONNX import, then decompose, fold, combine parallel matmul, CSE; run with the default build.

The passes are those whose business merging is (`PASSES`), BatchNorm folding among them. The program
that runs is `tvm.compile` for the host with its default pipeline, untuned: its times are those of
untuned schedules.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx  # type: ignore[import-not-found, import-untyped, unused-ignore]
import tvm  # type: ignore[import-not-found, import-untyped, unused-ignore]
from program import Floats, Program
from tvm import relax
from tvm.relax.frontend.onnx import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from_onnx,
)

SOURCE = "onnx"
PACKAGES = ("apache-tvm",)
COUNTED = frozenset({"nn.conv1d", "nn.conv2d", "nn.conv3d", "matmul"})
MOVES = frozenset({"reshape", "permute_dims", "squeeze", "expand_dims"})
PASSES = (
    "FoldBatchnormToConv2D",
    "DecomposeOpsForInference",
    "FoldConstant",
    "CombineParallelMatmul",
    "EliminateCommonSubexpr",
    "DeadCodeElimination",
)


def build(source: Path, folder: Path) -> Counter[str]:
    """Import, optimise and compile; return how often each Relax operator is left."""
    passes = tvm.transform.Sequential([getattr(relax.transform, name)() for name in PASSES])
    module = passes(from_onnx(onnx.load(source), keep_params_in_input=False))
    tvm.compile(module, target="llvm").export_library(str(folder / "model.so"))
    found: Counter[str] = Counter()

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.Op):
            found[expression.op.name.removeprefix("relax.")] += 1

    relax.analysis.post_order_visit(module["main"], visit)
    return found


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Load the library into a virtual machine; the number of threads comes from TVM_NUM_THREADS."""
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    function, tensor = machine["main"], tvm.runtime.tensor(x)
    last: list[Any] = []

    def step() -> None:
        last[:] = [function(tensor)]

    def output() -> Floats:
        found: Floats = last[0].numpy()
        return found

    return Program(step, output, threads)
