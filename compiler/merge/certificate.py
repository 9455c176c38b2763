"""A numeric certificate: a region and its program, run on random input in float64.

Independent of the algebra: torch runs both. A linear map that vanishes at a random point is zero with
probability one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from compiler.evaluate import run_node, widen
from compiler.ir.graph import Graph, Kind, Operand, Value
from compiler.ir.schema import overload
from compiler.merge.regions import Regions
from compiler.merge.sizes import bindings, sizes
from compiler.merge.step import ENTRY, Program, Ref


@torch.no_grad()
def residual(regions: Regions, entry: Value, exit_: Value, program: Program) -> float | None:
    """Return the largest difference over the largest value; None where sizes are only known at run time."""
    graph = regions.graph
    if not graph.type_of(entry).static or any(w.device.type == "meta" for w in _weights(program)):
        return None
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(sizes(graph, graph.type_of(entry)), generator=generator, dtype=torch.float64)
    wanted = _region(graph, regions, entry, exit_, start)
    got = _program(program, start)
    scale = float(wanted.abs().max())
    return float((got - wanted).abs().max()) / max(scale, 1e-300) if wanted.numel() else 0.0


@torch.no_grad()
def agreement(
    before: Graph, after: Graph, pairs: Sequence[tuple[Value, Value]], entries: Iterable[Value]
) -> float | None:
    """Return how far values of one graph are from those of another, on random values at the entries.

    `pairs` are a value of each graph. None where a size is only known at run time.
    """
    generator = torch.Generator().manual_seed(0)
    start: dict[Value, Any] = {}
    for value in entries:
        type_ = before.type_of(value)
        if not type_.static:
            return None
        drawn = torch.randn(sizes(before, type_), generator=generator, dtype=torch.float64)
        start[value] = drawn if type_.dtype.is_floating_point else torch.zeros_like(drawn, dtype=type_.dtype)
    wanted = _cone(before, [old for old, _ in pairs], dict(start))
    got = _cone(after, [new for _, new in pairs], start)
    scale = max((float(w.abs().max()) for w in wanted if w.numel()), default=0.0)
    apart = (float((g - w).abs().max()) for g, w in zip(got, wanted, strict=True) if w.numel())
    return max(apart, default=0.0) / max(scale, 1e-300)


def _cone(graph: Graph, targets: Sequence[Value], values: dict[Value, Any]) -> list[torch.Tensor]:
    """Run what leads from known values to the targets, in float64."""
    names: set[str] = set()
    work = [v.node for v in targets if v not in values]
    while work:
        name = work.pop()
        if name not in names:
            names.add(name)
            work += [v.node for _, v in graph.node(name).values() if v not in values]
    bound = bindings(graph)
    for node in graph.nodes():
        if node.name in names and node.kind is Kind.CONSTANT:
            tensor = graph.constants[node.name].tensor
            assert tensor is not None
            values[node.value] = widen(tensor, torch.float64)
        elif node.name in names:
            run_node(node, values, bound, torch.float64)
    return [values[v] for v in targets]


def _weights(program: Program) -> list[torch.Tensor]:
    return [o for s in program.steps for o in s.operands.values() if isinstance(o, torch.Tensor)]


def _region(graph: Graph, regions: Regions, entry: Value, exit_: Value, start: torch.Tensor) -> torch.Tensor:
    values: dict[Value, Any] = {entry: start}
    bound = bindings(graph)
    for name in dict.fromkeys(v.node for v in regions.affine.between(entry, exit_)):
        node = graph.node(name)
        for _, value in node.values():
            _load(graph, value, values, bound)
        run_node(node, values, bound, torch.float64)
    result: torch.Tensor = values[exit_]
    return result


def _load(graph: Graph, value: Value, values: dict[Value, Any], bound: Any) -> None:
    """Put a weight, or what only relabels one, among the values."""
    if value in values:
        return
    node = graph.producer(value)
    if node.kind is Kind.CONSTANT:
        tensor = graph.constant(value)
        assert tensor is not None
        values[value] = widen(tensor, torch.float64)
        return
    for _, inner in node.values():
        _load(graph, inner, values, bound)
    run_node(node, values, bound, torch.float64)


def _program(program: Program, start: torch.Tensor) -> torch.Tensor:
    made: list[Any] = []

    def resolved(operand: Operand) -> Any:
        if isinstance(operand, Ref):
            return start if operand == ENTRY else made[operand.index]
        return [resolved(o) for o in operand] if isinstance(operand, tuple) else operand

    for step in program.steps:
        result = overload(step.op)(**{k: resolved(o) for k, o in step.operands.items()})
        made.append(result[step.output] if isinstance(result, tuple | list) else result)
    final: torch.Tensor = resolved(program.result)
    return final
