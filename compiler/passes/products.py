"""One spelling for a product with a constant matrix: `linear`.

`matmul(x, W) = linear(x, W^T)`. The weight is stored the other way round, so one that something else reads
too is left alone.
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node

_PRODUCTS = ("aten.mm.default", "aten.matmul.default")


def unify_products(graph: Graph) -> Graph:
    """Return the graph with every product by a constant matrix of one reader as a `linear`."""
    editor = Editor(graph)
    for original in graph.ops():
        node = editor.graph.node(original.name)
        if node.op not in _PRODUCTS or not _by_weight(editor.graph, node):
            continue
        left, right = (operand for _, operand in node.operands[:2])
        weight = editor.graph.constant(right)
        assert weight is not None
        stored = editor.constant(
            weight.mT.contiguous(), right.node, graph.producer(right).origin, before=node.name
        )
        operands = {"input": left, "weight": stored, "bias": None}
        value = editor.ahead_of(node, "aten.linear.default", operands)
        editor.replace_uses(node.value, value)
        editor.remove_unread([node.name])
    return editor.finish()


def _by_weight(graph: Graph, node: Node) -> bool:
    left, right = (operand for _, operand in node.operands[:2])
    weight = graph.constant(right)
    data = graph.producer(left).kind is not Kind.CONSTANT and graph.type_of(left).rank == node.type.rank
    return data and weight is not None and weight.dim() == 2 and len(graph.uses(right)) == 1
