"""Which operations are affine in their data, as `rules/` states them (`merges.md` 1.6).

`affine(graph, value)` answers with an `AffineNode`: the data operands, and the function that gives
the form of the result from theirs. Everything else is a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compiler.ir.graph import Graph, Kind, Node, Operand, Value
from compiler.merge.form import Form


@dataclass(frozen=True)
class AffineNode:
    """An affine operation: its data operands, each once, and the form of its result from theirs.

    `relabels`: it moves elements and computes nothing. `commuted`: the form where the operation is
    put in front of the region instead. `inside`: operations that only lead to it.
    """

    terms: tuple[Value, ...]
    apply: Callable[[Sequence[Form]], Form]
    relabels: bool = False
    commuted: Callable[[Sequence[Form]], Form] | None = None
    inside: tuple[str, ...] = ()


Rule = Callable[[Graph, Node, int], AffineNode | None]


def affine(graph: Graph, value: Value) -> AffineNode | None:
    """Return the operation that makes a value as an affine one, or None where it is a barrier."""
    from compiler.merge.rules import RULES

    node = graph.node(value.node)
    rule = RULES.get(node.op)
    if node.kind is not Kind.OP or rule is None or not node.types[value.index].dtype.is_floating_point:
        return None
    return rule(graph, node, value.index)


def is_data(graph: Graph, operand: Operand) -> bool:
    """Tell whether an operand is a value that is no stored constant."""
    return isinstance(operand, Value) and graph.producer(operand).kind is not Kind.CONSTANT
