"""Views as slices and reshapes, which the delegate takes and which cost nothing outside it.

A softmax of four axes behind a convolution works on rows: the delegate keeps the convolution's result
channels last, and its softmax then runs over the channels in place of the last axis, without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, TensorType, Value
from targets.rewriting import Maker

IMAGES = ("conv", "max_pool", "avg_pool", "adaptive", "upsample", "mean", "amax", "max.", "prelu")
FLAT = frozenset(f"aten.{name}.default" for name in ("matmul", "bmm", "reshape", "linear"))


def unbind(editor: Editor, node: Node) -> Sequence[Value]:
    """Take each slice of one and reshape it."""
    type_ = editor.graph.type_of(node.operand("self"))
    dim = node.operand("dim") % type_.rank
    return [_taken(editor, node, type_, dim, i) for i in range(len(node.types))] if type_.static else ()


def select(editor: Editor, node: Node) -> Sequence[Value]:
    """Take the slice of one at the index and reshape it."""
    type_ = editor.graph.type_of(node.operand("self"))
    dim, index = node.operand("dim") % type_.rank, node.operand("index")
    if not type_.static or not isinstance(index, int):
        return ()
    return (_taken(editor, node, type_, dim, index % int(type_.shape[dim])),)


def reshaped(editor: Editor, node: Node) -> Sequence[Value]:
    """Write squeeze and unsqueeze as reshapes, which cost nothing outside a delegate."""
    if not node.type.static:
        return ()
    return (Maker(editor, node).op("aten.reshape.default", (node.operand("self"), node.type.shape)),)


def matmul(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a product of stacks of matrices as bmm over one axis; the SDK expands each side, outside."""
    sides = [node.operand(name) for name in ("self", "other")]
    left, right = types = [editor.graph.type_of(side) for side in sides]
    if not all(t.static and t.rank > 3 and t.shape[:-2] == left.shape[:-2] for t in types):
        return ()
    make, batch = Maker(editor, node), math.prod(left.shape[:-2])  # type: ignore[arg-type]
    flat = [
        make.op("aten.reshape.default", (side, (batch, *t.shape[-2:])))
        for side, t in zip(sides, types, strict=True)
    ]
    product = make.op("aten.bmm.default", tuple(flat), shape=(batch, left.shape[-2], right.shape[-1]))
    return (make.op("aten.reshape.default", (product, node.type.shape)),)


def softmax(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a softmax over the last of four axes on rows, where its input may lie channels last."""
    x, shape = node.operand("self"), node.type.shape
    if node.type.rank != 4 or not node.type.static or node.operand("dim") not in (-1, 3):
        return ()
    if not _channels_last(editor.graph, x):
        return ()
    make, rows = Maker(editor, node), (math.prod(shape[:-1]), shape[-1])  # type: ignore[arg-type]
    flat = make.op("aten.reshape.default", (x, rows))
    operands = {key: v for key, v in node.operands if key not in ("self", "dim")}
    weights = make.op(node.op, (flat, -1), operands, shape=rows)
    return (make.op("aten.reshape.default", (weights, shape)),)


def _channels_last(graph: Graph, value: Value) -> bool:
    """Tell whether an operation on images lies before a value, with nothing between that reads it flat."""
    pending, seen = [value], set[Value]()
    while pending:
        node = graph.producer(pending.pop())
        if node.kind is not Kind.OP or node.op in FLAT:
            continue
        if node.op.startswith(tuple(f"aten.{name}" for name in IMAGES)):
            return True
        new = {v for _, v in node.values() if graph.type_of(v).rank == 4} - seen
        seen |= new
        pending += new
    return False


def _taken(editor: Editor, node: Node, type_: TensorType, dim: int, index: int) -> Value:
    make = Maker(editor, node)
    one = tuple(1 if i == dim else d for i, d in enumerate(type_.shape))
    part = make.op("aten.slice.Tensor", (node.operand("self"), dim, index, index + 1, 1), shape=one)
    return make.op("aten.reshape.default", (part, node.types[0].shape))
