"""Graph -> `model.so`: import into Relax, build with LLVM for this machine, look at what it computes.

TVM has two importers, and each knows operations that the other does not: that of exported programs,
then that of ONNX files. Some compile and compute something else without a word (grid_sample in
TVM 0.26), so that each is run once on seeded inputs and must agree with the graph before it is taken.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.export import example_inputs, export_graph
from compiler.ir.constants import constant_bytes
from compiler.ir.graph import Graph
from compiler.target import Lowered
from targets.failure import as_unsupported
from targets.onnx_file import onnx_bytes
from targets.plain import flat, refuse_state
from targets.quiet import quiet_native
from targets.serving import write
from targets.stopwatch import rounded, timed
from targets.tvm import PROGRAM
from targets.tvm.capability import unsupported

AGREES = 1e-2  # of the largest result; the artifact's verification judges closely
LEAST = 1e-6


def lower(graph: Graph, method: str, folder: Path) -> Lowered:
    """Write `model.so` and `io.json` for a graph, the method of that name, into `folder`.

    The report holds `tuned` (false: the schedules are TVM's defaults), `importer`, `refused` (why an
    earlier importer was not taken), `kernels` (fused kernels, with counts), `delegates`,
    `delegated_ops`, `outside`, `outside_ops` (all is compiled, so nothing is outside),
    `program_bytes`, `constant_bytes` and `seconds` by stage. Raises UnsupportedModelError naming
    the node the SDK failed at, where it says.
    """
    refuse_state(graph, "a library of TVM's")
    plain, seconds = flat(graph), dict[str, float]()
    with timed(seconds, "export"):
        program = export_graph(plain)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name, quiet_native():
        library = Path(name) / PROGRAM
        importer, refused, kernels = _build(plain, program, library, seconds)
        data = library.read_bytes()
    counts = {"delegates": 1, "delegated_ops": sum(kernels.values()), "outside_ops": 0}
    facts = {**counts, "outside": [], "methods": {method: counts}, "kernels": kernels}
    origin = {"tuned": False, "importer": importer, "refused": refused}
    sizes = {"program_bytes": len(data), "constant_bytes": constant_bytes([graph])}
    files = write(folder, PROGRAM, data, {method: graph})
    return Lowered(files, {**facts, **origin, **sizes, "seconds": rounded(seconds)})


def _build(
    graph: Graph, program: ExportedProgram, library: Path, seconds: dict[str, float]
) -> tuple[str, dict[str, str], dict[str, int]]:
    """Write the library by the first importer whose program agrees; return it, why not others, kernels."""
    refused: dict[str, str] = {}
    for name, read in IMPORTERS.items():
        try:
            with timed(seconds, "import"):
                module = read(program)
            with timed(seconds, "build"):
                kernels = _compiled(module, library)
            with timed(seconds, "check"):
                _check(graph, library)
        except Exception as found:  # an importer raises whatever it stumbles on
            refused[name] = " ".join(str(found).split())[:120] or type(found).__name__
            continue
        return name, refused, kernels
    with as_unsupported("TVM", "importing", graph, program, unsupported):
        raise UnsupportedModelError("; ".join(f"by way of {name}: {why}" for name, why in refused.items()))


def from_program(program: ExportedProgram) -> Any:
    """Return the Relax module of an exported program."""
    from tvm.relax.frontend.torch import from_exported_program

    return from_exported_program(program)


def from_onnx_file(program: ExportedProgram) -> Any:
    """Return the Relax module of the program's ONNX file."""
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    return from_onnx(onnx.load_from_string(onnx_bytes(program)), keep_params_in_input=False)


IMPORTERS: Mapping[str, Callable[[ExportedProgram], Any]] = {
    "torch.export": from_program,
    "onnx": from_onnx_file,
}


def _compiled(module: Any, library: Path) -> dict[str, int]:
    """Build for this machine's processor; return the fused kernels with how often they are called."""
    import tvm
    from tvm import relax
    from tvm.target.codegen import llvm_get_system_cpu

    target = tvm.target.Target({"kind": "llvm", "mcpu": str(llvm_get_system_cpu())})
    with target:
        fused = relax.get_pipeline("zero")(module)
    tvm.compile(fused, target=target).export_library(str(library))
    kernels: Counter[str] = Counter()

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == "relax.call_tir":
            kernels[expression.args[0].name_hint] += 1

    relax.analysis.post_order_visit(fused["main"], visit)
    return dict(kernels.most_common())


def _check(graph: Graph, library: Path) -> None:
    """Raise UnsupportedModelError where the library does not compute what the graph does."""
    import tvm
    from tvm import relax

    inputs = example_inputs(graph)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(t.numpy()) for t in inputs])
    found = [result] if hasattr(result, "numpy") else list(result)
    for index, (y, expected) in enumerate(zip(found, evaluate(graph, inputs), strict=True)):
        assert isinstance(expected, torch.Tensor)
        _agrees(index, torch.from_numpy(y.numpy()), expected)


def _agrees(index: int, y: torch.Tensor, expected: torch.Tensor) -> None:
    if y.shape != expected.shape:
        raise UnsupportedModelError(
            f"it returns shape {tuple(y.shape)} for output {index} in place of {tuple(expected.shape)}"
        )
    wide = expected.double()
    finite = torch.isfinite(wide)
    if not torch.equal(finite, torch.isfinite(y)):
        raise UnsupportedModelError(f"it computes output {index} with infinities or NaN in other places")
    if not (wanted := wide[finite]).numel():
        return
    scale, error = float(wanted.abs().max()), float((y.double()[finite] - wanted).abs().max())
    if error > AGREES * max(scale, LEAST):
        raise UnsupportedModelError(f"it computes output {index} wrong by {error:.3g} of {scale:.3g}")
