"""Plain integers for symbolic sizes, and constants behind operations that only relabel memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from compiler.evaluate import run_node
from compiler.ir.dims import resolve
from compiler.ir.graph import Dim, Graph, Kind, Operand, TensorType, Value

# Weight-only folding leaves these in place where their result is larger than what they read.
_VIEWS = {"aten.expand.default", "aten.reshape.default", "aten.permute.default", "aten.unsqueeze.default"}


def bindings(graph: Graph) -> Mapping[str, int]:
    """Return a size for each symbol: its least, and at least 2, so that positions can be told apart."""
    return {name: max(low, 2) for name, (low, _, _) in graph.symbols.items()}


def sizes(graph: Graph, type_: TensorType) -> tuple[int, ...]:
    """Return a shape in plain integers."""
    bound = bindings(graph) if not type_.static else {}
    return tuple(int(resolve(d, bound)) for d in type_.shape)


def count(graph: Graph, dims: tuple[Dim, ...]) -> int:
    """Return the product of dimensions in plain integers."""
    return math.prod(int(resolve(d, bindings(graph))) for d in dims)


def constant(graph: Graph, operand: Operand) -> torch.Tensor | None:
    """Return the tensor an operand stands for where it is constant, as a view where it can be."""
    if not isinstance(operand, Value):
        return None
    node = graph.producer(operand)
    if node.kind is Kind.CONSTANT:
        return graph.constant(operand)
    if node.op not in _VIEWS:
        return None
    source = constant(graph, node.operand("self"))
    if source is None:
        return None
    values = {node.operand("self"): source}
    try:
        run_node(node, values, bindings(graph))
    except KeyError:
        return None
    return values[operand]
