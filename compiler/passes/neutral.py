"""Operations that change nothing, and branches that are weighted by zero.

A schedule that has ended leaves its branch behind with a factor of zero, and the other one with a factor of
one: `0 f(x) + 1 g(x) = g(x)` over the reals.
"""

from __future__ import annotations

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Operand, Value

_PRODUCTS = ("aten.mul.Tensor", "aten.mul.Scalar")
_QUOTIENTS = ("aten.div.Tensor", "aten.div.Scalar")
_SUMS = ("aten.add.Tensor", "aten.sub.Tensor", "aten.add.Scalar", "aten.sub.Scalar")


def drop_neutral(graph: Graph) -> Graph:
    """Return the graph without products by one, sums with zero, and terms that are multiplied by zero."""
    editor = Editor(graph)
    for original in graph.ops():
        if original.name not in editor.graph:
            continue
        node = editor.graph.node(original.name)
        kept = _kept(editor.graph, node)
        if kept is not None and editor.graph.type_of(kept) == node.type:
            editor.replace_uses(node.value, kept)
            editor.remove_unread([node.name])
    return editor.finish()


def _kept(graph: Graph, node: Node) -> Value | None:
    """Return the operand that the node merely repeats."""
    left, right = node.operand("self"), node.operand("other")
    if node.op in _PRODUCTS:
        return _value(left) if _is(graph, right, 1) else _value(right) if _is(graph, left, 1) else None
    if node.op in _QUOTIENTS and node.operand("rounding_mode") is None:
        return _value(left) if _is(graph, right, 1) else None
    if node.op in _SUMS:
        if _zero(graph, right):
            return _value(left)
        plus = "add" in node.op and node.operand("alpha", 1) == 1
        return _value(right) if plus and _zero(graph, left) else None
    return None


def _value(operand: Operand) -> Value | None:
    return operand if isinstance(operand, Value) else None


def _zero(graph: Graph, operand: Operand) -> bool:
    """Tell whether an operand is zero, or a product with zero."""
    if _is(graph, operand, 0):
        return True
    if not isinstance(operand, Value):
        return False
    node = graph.producer(operand)
    factors = (node.operand("self"), node.operand("other"))
    return node.op in _PRODUCTS and any(_is(graph, f, 0) for f in factors)


def _is(graph: Graph, operand: Operand, number: int) -> bool:
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return operand == number
    if isinstance(operand, Value) and graph.producer(operand).op == "aten.expand.default":
        operand = graph.producer(operand).operand("self")
    tensor: torch.Tensor | None = graph.constant(operand)
    return tensor is not None and tensor.numel() > 0 and bool((tensor == number).all())
