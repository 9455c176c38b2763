"""A kernel under a schedule -> a static executable of that kernel alone, which a device can time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compiler.records import RunSpec
from compiler.target import FORWARD
from targets.tvm.processor import Processor
from targets.tvm.static import EXECUTABLE, WEIGHTS
from targets.tvm.static.emit import emit
from targets.tvm.static.layout import lay_out
from targets.tvm.static.link import build_kernels, link
from targets.tvm.static.program import Program
from targets.tvm.tuning.kernels import KERNEL


def build(program: Program, module: Any, processor: Processor, folder: Path) -> RunSpec:
    """Write the program of a module's one function into a folder and return how it is started.

    Raises whatever LLVM and the linker make of a schedule.
    """
    import tvm

    folder.mkdir(parents=True)
    layout, tables, kernels = lay_out(program), folder / "model.c", folder / "kernel.o"
    names = [f"input{i}" for i in program.inputs]
    tables.write_text(emit(program, layout, FORWARD, names), encoding="utf-8")
    build_kernels(tvm.IRModule({KERNEL: module["main"]}), [KERNEL], processor, kernels)
    link([kernels], tables, processor, folder / EXECUTABLE)
    (folder / EXECUTABLE).chmod(0o755)
    (folder / WEIGHTS).write_bytes(layout.weights)
    files = {"program": folder / EXECUTABLE, "weights": folder / WEIGHTS}
    return RunSpec(files, ("{program}", "{weights}"))
