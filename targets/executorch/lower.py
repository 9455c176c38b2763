"""Graph -> `.pte`: legalise, export, partition for XNNPACK, plan memory, serialise, report.

Inputs are left out of the memory plan (`alloc_graph_input=False`): the runtime then reads the
caller's buffers without a copy, and no intermediate can overwrite them between two executions.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.export import export_graph, symbol_sizes
from compiler.ir.dims import resolve
from compiler.ir.graph import Graph, TensorType
from targets.executorch import IO, PROGRAM
from targets.executorch.delegation import blame, report
from targets.executorch.legalise import legalise
from targets.executorch.quiet import quiet

QUANTIZED = "quantized_decomposed"


@dataclass(frozen=True)
class LoweredProgram:
    """The files written, the program first, and JSON-ready facts about them."""

    files: tuple[str, ...]
    report: Mapping[str, object]


def lower(graph: Graph, folder: Path) -> LoweredProgram:
    """Write `model.pte` and `io.json` for a graph into `folder`.

    The report holds `delegates`, `delegated_ops`, `outside` (ops left to portable kernels, each
    with count, IR nodes and modules), `program_bytes` and `seconds` by stage. Raises
    UnsupportedModelError naming the node the SDK failed at, where it says.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "export"):
        program = export_graph(legalise(graph))
    buffer, facts = lower_program(program, graph, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(buffer)
    (folder / IO).write_text(json.dumps(_io(graph, facts), indent=1) + "\n", encoding="utf-8")
    return LoweredProgram((PROGRAM, IO), facts)


def lower_program(
    program: ExportedProgram, graph: Graph | None = None, seconds: dict[str, float] | None = None
) -> tuple[bytes, dict[str, object]]:
    """Return the bytes of the `.pte` and the report; `graph` lends node names and modules to messages."""
    seconds = {} if seconds is None else seconds
    with quiet():
        with _timed(seconds, "partition"), _as_unsupported(program, graph, "lowering to XNNPACK"):
            edge = _partition(program)
        facts = report(edge.exported_program(), graph)
        with _timed(seconds, "serialise"), _as_unsupported(program, graph, "serialising"):
            executorch = edge.to_executorch(_backend_config())
            buffer = bytes(executorch.buffer)
            kernels = _kernels(executorch)
        _check_kernels(kernels, facts)
    rounded = {stage: round(value, 3) for stage, value in seconds.items()}
    return buffer, {**facts, "kernels": kernels, "program_bytes": len(buffer), "seconds": rounded}


def _partition(program: ExportedProgram) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    if any(_namespace(n.target) == QUANTIZED for n in program.graph.nodes):
        import executorch.kernels.quantized  # noqa: F401  (registers the out variants)
    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


def _namespace(target: object) -> str:
    return target.namespace if isinstance(target, torch._ops.OpOverload) else ""


def _backend_config() -> Any:
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    return ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))


def _kernels(executorch: Any) -> list[str]:
    """Return the portable kernels the program calls, as `aten::add.out`."""
    names = {
        f"{op.name}.{op.overload}" if op.overload else op.name
        for plan in executorch.executorch_program.execution_plan
        for op in plan.operators
    }
    return sorted(names)


def _check_kernels(kernels: list[str], facts: Mapping[str, object]) -> None:
    from executorch.extension.pybindings import _portable_lib

    known = set(_portable_lib._get_operator_names())
    missing = [k for k in kernels if k not in known and not k.startswith(QUANTIZED)]
    if missing:
        where = [f"{o['op']} ({', '.join(o['nodes'][:3])})" for o in facts["outside"]]  # type: ignore[attr-defined]
        raise UnsupportedModelError(
            f"ExecuTorch's runtime has no kernel for {', '.join(missing)}; "
            f"outside the delegate are {'; '.join(where)}"
        )


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


@contextlib.contextmanager
def _as_unsupported(program: ExportedProgram, graph: Graph | None, doing: str) -> Iterator[None]:
    """Turn whatever the SDK raises into one short error that names the node."""
    try:
        yield
    except Exception as error:  # the SDK raises bare RuntimeError, AssertionError, KeyError, ...
        reason = blame(error, program, graph)
        raise UnsupportedModelError(f"ExecuTorch failed while {doing}: {reason}") from error


def _io(graph: Graph, facts: Mapping[str, object]) -> dict[str, object]:
    sizes = symbol_sizes(graph)

    def spec(name: str, type_: TensorType) -> dict[str, object]:
        shape = [int(resolve(d, sizes)) for d in type_.shape]
        return {"name": name, "shape": shape, "dtype": str(type_.dtype).removeprefix("torch.")}

    inputs = [spec(n.name, n.type) for n in graph.inputs()]
    outputs = [spec(v.node, graph.type_of(v)) for _, v in graph.output.values()]
    kernels = facts["kernels"]
    return {"schema": "edgewright.executorch.io/1", "inputs": inputs, "outputs": outputs, "kernels": kernels}
