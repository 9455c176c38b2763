"""Graphs -> `.pte`: legalise, export, partition for XNNPACK, plan memory, serialise, report.

Inputs are left out of the memory plan (`alloc_graph_input=False`): the runtime then reads the
caller's buffers without a copy, and no intermediate can overwrite them between two executions.
A program of several methods holds constants of equal content once, delegated or not: the SDK keys
them by their hash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.export import export_graph
from compiler.ir.constants import constant_bytes, shared_bytes
from compiler.ir.graph import Graph
from compiler.target import Lowered
from targets.executorch import PROGRAM
from targets.executorch.delegation import blame, report
from targets.executorch.legalise import legalise
from targets.quiet import quiet
from targets.serving import write
from targets.stopwatch import rounded, timed

QUANTIZED = "quantized_decomposed"


def lower(methods: Mapping[str, Graph], folder: Path, without: Collection[str] = ()) -> Lowered:
    """Write `model.pte` and `io.json` for a program of these methods into `folder`.

    `without` names forms of `targets.executorch.legalise` that are left out, to measure what they buy.

    The report holds `delegates`, `delegated_ops`, `outside_ops` in all, `outside` (ops left to
    portable kernels, each with count, method, IR nodes and modules), the same numbers and
    `constant_bytes` for each of `methods`, `program_bytes`, `shared_bytes` (constants of several
    methods that the file holds once) and `seconds` by stage. Raises UnsupportedModelError naming
    the node the SDK failed at, where it says.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "export"):
        legal = {name: legalise(graph, without) for name, graph in methods.items()}
        programs = {name: export_graph(graph) for name, graph in legal.items()}
    buffer, facts = lower_programs(programs, methods, seconds)
    files = write(folder, PROGRAM, buffer, methods, kernels=facts["kernels"])
    return Lowered(files, facts | _stored(legal, facts["methods"]))


def lower_programs(
    programs: Mapping[str, ExportedProgram],
    graphs: Mapping[str, Graph],
    seconds: dict[str, float] | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of the `.pte` and the report; `graphs` lend node names and modules to messages."""
    seconds = {} if seconds is None else seconds
    with quiet(), _forgotten():
        with timed(seconds, "partition"), _as_unsupported(programs, graphs, "lowering to XNNPACK"):
            edge = _partition(dict(programs))
        facts = report({name: edge.exported_program(name) for name in programs}, graphs)
        with timed(seconds, "serialise"), _as_unsupported(programs, graphs, "serialising"):
            executorch = edge.to_executorch(_backend_config())
            buffer = bytes(executorch.buffer)
            kernels = _kernels(executorch)
        _check_kernels(kernels, facts)
    sizes = {"kernels": kernels, "program_bytes": len(buffer)}
    return buffer, {**facts, **sizes, "seconds": rounded(seconds)}


def _stored(legal: Mapping[str, Graph], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the program's constants take; the SDK stores equal ones once, by their hash."""
    methods = {n: {**facts[n], "constant_bytes": constant_bytes([g])} for n, g in legal.items()}
    return {"methods": methods, "shared_bytes": shared_bytes(legal)}


def _partition(programs: dict[str, ExportedProgram]) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    if any(_namespace(n.target) == QUANTIZED for p in programs.values() for n in p.graph.nodes):
        import executorch.kernels.quantized  # noqa: F401  (registers the out variants)
    return to_edge_transform_and_lower(programs, partitioner=[XnnpackPartitioner()])


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    """Empty two caches that hold the weights of each lowered program for as long as the process lives."""
    from executorch.exir.backend.utils import is_same_node
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        yield
    finally:
        is_same_node.cache_clear()  # what it compared, without bound
        FakeTensorMode.cache_clear()  # the delegate's module is part of a key


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
def _as_unsupported(
    programs: Mapping[str, ExportedProgram], graphs: Mapping[str, Graph], doing: str
) -> Iterator[None]:
    """Turn whatever the SDK raises into one short error that names the node."""
    try:
        yield
    except Exception as error:  # the SDK raises bare RuntimeError, AssertionError, KeyError, ...
        reason = blame(error, programs, graphs)
        raise UnsupportedModelError(f"ExecuTorch failed while {doing}: {reason}") from error
