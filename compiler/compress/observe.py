"""What a graph computes inside, on samples: the data that a method fits to.

Values are computed in the graph's own precision and handed over in float64, one sample after the
other, so that no more than one sample's values are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from compiler.compress.decision import Sample
from compiler.evaluate import evaluate, run_node
from compiler.ir.dims import bind
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.passes.dead_code import dead_code


def watching(graph: Graph, values: Sequence[Value]) -> Graph:
    """Return the graph with these values as its results, and nothing else."""
    editor = Editor(graph)
    operands = tuple((f"r{i}", value) for i, value in enumerate(values))
    editor.update(Node("output", Kind.OUTPUT, operands=operands))
    for node in graph.writes():
        editor.remove(node.name)
    return dead_code(editor.finish())


def observed(
    graph: Graph, values: Sequence[Value], samples: Iterable[Sample]
) -> Iterator[dict[Value, torch.Tensor]]:
    """Yield the values of each sample, floating ones in float64."""
    watched = watching(graph, values)
    for sample in samples:
        results = evaluate(watched, sample)
        yield {v: r.double() if r.is_floating_point() else r for v, r in zip(values, results, strict=True)}


def channel_axis(graph: Graph, node: Node) -> int:
    """Return the axis of a layer's channels, in its input as in its output."""
    weight = graph.type_of(node.operand("weight"))
    return -1 if node.op == "aten.linear.default" else node.type.rank - weight.rank + 1


def rows(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return a value as [positions, channels]."""
    return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])


def positions(graph: Graph, value: Value, axis: int, samples: int) -> int:
    """Return how many rows `samples` calls give of a value; a symbolic dimension counts as 1."""
    type_ = graph.type_of(value)
    channels = type_.shape[axis]
    return samples * type_.elements() // channels if isinstance(channels, int) and channels else 0


@torch.no_grad()
def run_all(graph: Graph, sample: Sample) -> dict[Value, Any]:
    """Return every value of a graph for one sample, in the graph's own precision."""
    return run_some(graph.ops(), given(graph, sample), bindings(graph, sample))


def given(graph: Graph, sample: Sample) -> dict[Value, Any]:
    """Return the inputs, weights and states that a run begins with."""
    values: dict[Value, Any] = {n.value: t for n, t in zip(graph.inputs(), sample, strict=True)}
    return values | {Value(name): constant.tensor for name, constant in graph.constants.items()}


@torch.no_grad()
def run_some(nodes: Iterable[Node], values: dict[Value, Any], bound: dict[str, Any]) -> dict[Value, Any]:
    """Run operations on known values, and return all of them; the dictionary given is filled."""
    for node in nodes:
        run_node(node, values, bound)
    return values


def bindings(graph: Graph, sample: Sample) -> dict[str, Any]:
    """Return the symbol bindings that a sample implies."""
    return bind([n.type for n in graph.inputs()], [t.shape for t in sample])
