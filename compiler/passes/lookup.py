"""A table looked up and put through a linear layer is one table: `E[i] W^T + b = (E W^T + b)[i]`.

The layer's arithmetic is done at build time, once a row. It is done where the rows do not get longer by more
than the weight that goes away, and where nothing else reads the table: a table tied to an output layer
stays (`merges.md` 1.8).
"""

from __future__ import annotations

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node
from compiler.passes.dead_code import dead_code

_EMBEDDING = "aten.embedding.default"


def fold_lookups(graph: Graph) -> Graph:
    """Return the graph with every linear layer behind a lookup folded into its table."""
    editor = Editor(graph)
    for node in graph.ops():
        while node.op == _EMBEDDING and (reader := _foldable(editor.graph, node)) is not None:
            node = _folded(editor, node, reader)  # what follows may fold into the new table too
    return dead_code(editor.finish())


def _foldable(graph: Graph, node: Node) -> Node | None:
    """Return the linear layer that alone reads a lookup, where folding it stores no more."""
    table, uses = graph.constant(node.operand("weight")), graph.uses(node.value)
    if table is None or len(uses) != 1 or len(graph.uses(node.operand("weight"))) != 1:
        return None
    reader = uses[0][0]
    weight = graph.constant(reader.operand("weight")) if reader.op == "aten.linear.default" else None
    bias = graph.constant(reader.operand("bias")) if reader.operand("bias") is not None else None
    if weight is None or (reader.operand("bias") is not None and bias is None):
        return None
    smaller = table.shape[0] * weight.shape[0] <= table.numel() + weight.numel()
    return reader if smaller and len(graph.uses(reader.operand("weight"))) == 1 else None


def _folded(editor: Editor, node: Node, reader: Node) -> Node:
    """Fold a layer into the table in front of it; return the new lookup."""
    graph = editor.graph
    table, weight = graph.constant(node.operand("weight")), graph.constant(reader.operand("weight"))
    bias = graph.constant(reader.operand("bias")) if reader.operand("bias") is not None else None
    assert table is not None
    assert weight is not None
    rows = torch.nn.functional.linear(
        table.double(), weight.double(), None if bias is None else bias.double()
    )
    origin = graph.producer(node.operand("weight")).origin
    stored = editor.constant(
        rows.to(table.dtype), f"{node.operand('weight').node}_folded", origin, before=node.name
    )
    operands = dict(node.operands) | {"weight": stored}
    value = editor.ahead_of(reader, _EMBEDDING, operands)
    editor.replace_uses(reader.value, value)
    editor.remove_unread([reader.name])
    return graph.producer(value)
