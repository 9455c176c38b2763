"""Common factors: `a c + b c = (a + b) c`, where adding `a` and `b` first costs less.

Experts with the same weights are computed once; their gates then add up (`merges.md` 2.31). The sum of the
gates must be smaller than the products it replaces.
"""

from __future__ import annotations

import math

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.sums import is_inner, is_sum, terms


def factor_out(graph: Graph) -> Graph:
    """Return the graph with sums of products of one common factor as one product."""
    editor = Editor(graph)
    for original in graph.ops():
        node: Node | None = editor.graph.node(original.name) if original.name in editor.graph else None
        while node is not None and is_sum(editor.graph, node) and not is_inner(editor.graph, node):
            node = _factored(editor, node)
    return editor.finish()


def _factored(editor: Editor, node: Node) -> Node | None:
    """Take one factor out of a sum; return the sum that is left, None where nothing changed."""
    graph = editor.graph
    addends = terms(graph, node)
    for i, first in enumerate(addends):
        for j in range(i + 1, len(addends)):
            found = _common(graph, first, addends[j])
            if found is not None:
                rest = [t for k, t in enumerate(addends) if k not in (i, j)]
                return _rewritten(editor, node, found, rest)
    return None


def _common(graph: Graph, a: Value, b: Value) -> tuple[Value, Value, Value] | None:
    """Return (factor, other of a, other of b) of two products that share a factor."""
    left, right = graph.producer(a), graph.producer(b)
    if any(n.op != "aten.mul.Tensor" or len(graph.uses(n.value)) != 1 for n in (left, right)):
        return None
    for x, y in (("self", "other"), ("other", "self")):
        for u, v in (("self", "other"), ("other", "self")):
            factor, p, q = left.operand(x), left.operand(y), right.operand(v)
            if factor != right.operand(u) or not all(isinstance(o, Value) for o in (factor, p, q)):
                continue
            small = graph.type_of(p) == graph.type_of(q) and _size(graph, p) < _size(graph, left.value)
            if small:
                return factor, p, q
    return None


def _size(graph: Graph, value: Value) -> int:
    return math.prod(d if isinstance(d, int) else 1 for d in graph.type_of(value).shape)


def _rewritten(editor: Editor, node: Node, found: tuple[Value, Value, Value], rest: list[Value]) -> Node:
    graph = editor.graph
    factor, a, b = found
    gates = editor.ahead_of(node, "aten.add.Tensor", {"self": a, "other": b}, graph.type_of(a))
    total = editor.ahead_of(node, "aten.mul.Tensor", {"self": factor, "other": gates}, node.type)
    for term in rest:
        total = editor.ahead_of(node, "aten.add.Tensor", {"self": term, "other": total}, node.type)
    editor.replace_uses(node.value, total)
    editor.remove_unread([node.name])
    return graph.producer(total)
