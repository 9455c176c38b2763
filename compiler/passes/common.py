"""Common subexpressions: the same operation on the same operands is computed once.

Two calls of an operation that draws random numbers are two draws, and stay. So do two dequantises: a
runtime fuses each into its reader, and one that stands between two int8 kernels belongs to neither
(ExecuTorch then partitions an int8 LSTM into a cycle).
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, Value
from compiler.ir.schema import draws

DEQUANTIZE = "quantized_decomposed.dequantize"


def share_computations(graph: Graph) -> Graph:
    """Return the graph with every repeated computation read from its first occurrence."""
    editor = Editor(graph)
    first: dict[tuple[object, ...], Node] = {}
    for original in graph.ops():
        node = editor.graph.node(original.name)
        if draws(node) or node.kind is not Kind.OP or node.op.startswith(DEQUANTIZE):
            continue
        key = (node.op, tuple((k, _key(o)) for k, o in node.operands), node.types)
        known = first.setdefault(key, node)
        if known.name != node.name:
            for index in range(len(node.types)):
                editor.replace_uses(Value(node.name, index), Value(known.name, index))
            editor.remove_unread([node.name])
    return editor.finish()


def _key(operand: Operand) -> object:
    """Return an operand such that equal keys mean equal operands: 1, 1.0 and True differ."""
    if isinstance(operand, tuple):
        return tuple(map(_key, operand))
    return type(operand), operand
