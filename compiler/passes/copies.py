"""In-place writes resolved: `copy(self, src)` has the value of `src`, and nothing of `self` but its type.

A slice assignment exports as `slice -> copy -> slice_scatter`. The copy reads its destination only
for a shape and a dtype, so it becomes `src` itself, broadcast and cast where that is needed. What is
written into an activation (the frame of BN-and-pad) then no longer seems to depend on it, and a
kernel assembled from weights is weight-only from end to end (`merges.md` 1.10).
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value

COPY = "aten.copy.default"


def resolve_copies(graph: Graph) -> Graph:
    """Return the graph with every copy replaced by the value it copies."""
    copies = [node for node in graph.ops() if node.op == COPY]
    if not copies:
        return graph
    editor = Editor(graph)
    for node in copies:
        editor.replace_uses(node.value, _source(editor, editor.graph.node(node.name)))
        editor.remove_unread([node.name])
    return editor.finish()


def _source(editor: Editor, node: Node) -> Value:
    source: Value = node.operand("src")
    type_ = editor.graph.type_of(source)
    if type_.dtype != node.type.dtype:
        operands = {"self": source, "dtype": node.type.dtype}
        type_ = TensorType(type_.shape, node.type.dtype)
        source = _op(editor, node, "aten._to_copy.default", operands, type_)
    if type_ != node.type:
        source = _op(
            editor, node, "aten.expand.default", {"self": source, "size": node.type.shape}, node.type
        )
    return source


def _op(editor: Editor, node: Node, op: str, operands: dict[str, object], type_: TensorType) -> Value:
    return editor.op(op, operands, [type_], node.name, node.origin, node.source, before=node.name)
