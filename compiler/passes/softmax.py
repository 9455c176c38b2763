"""Softmax over logits that are known: a single one, or some that are minus infinity.

A softmax over one logit is one. A logit of minus infinity has probability zero: where every
reader picks single probabilities, the masked ones are zeros and the softmax runs over the others
(an expert that a router never selects, `merges.md` 2.31).
"""

from __future__ import annotations

import math

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value

_SOFTMAX = ("aten.softmax.int", "aten._softmax.default")


def known_logits(graph: Graph) -> Graph:
    """Return the graph with softmaxes over known logits replaced."""
    editor = Editor(graph)
    for original in graph.ops():
        if original.name not in editor.graph:
            continue
        node = editor.graph.node(original.name)
        if node.op not in _SOFTMAX or not node.type.static:
            continue
        axis = node.operand("dim") % node.type.rank
        if node.type.shape[axis] == 1:
            _one(editor, node)
        elif axis == node.type.rank - 1:
            _masked(editor, node)
    return editor.finish()


def _one(editor: Editor, node: Node) -> None:
    one = editor.constant(
        torch.ones((1,) * node.type.rank, dtype=node.type.dtype), f"{node.name}_one", node.origin
    )
    operands = {"self": one, "size": node.type.shape, "implicit": False}
    whole = editor.ahead_of(node, "aten.expand.default", operands, node.type)
    editor.replace_uses(node.value, whole)
    editor.remove_unread([node.name])


def _masked(editor: Editor, node: Node) -> None:
    graph = editor.graph
    fill = graph.producer(node.operand("self"))
    mask = graph.constant(fill.operand("mask")) if fill.op == "aten.masked_fill.Scalar" else None
    if mask is None or fill.operand("value") != -math.inf or mask.numel() != mask.shape[-1]:
        return
    dead = mask.flatten()
    picks = _picks(graph, node)
    if not bool(dead.any()) or bool(dead.all()) or picks is None:
        return
    kept = (~dead).nonzero().flatten()
    type_ = TensorType((*node.type.shape[:-1], len(kept)), node.type.dtype)
    index = editor.constant(kept, f"{node.name}_kept", node.origin)
    operands = {"self": fill.operand("self"), "dim": node.type.rank - 1, "index": index}
    logits = editor.ahead_of(node, "aten.index_select.default", operands, type_)
    inner = dict(node.operands) | {"self": logits}
    probabilities = editor.ahead_of(node, node.op, inner, type_)
    for reader, place in picks:
        if dead[place]:
            zero = torch.zeros((1,) * reader.type.rank, dtype=reader.type.dtype)
            stored = editor.constant(zero, f"{reader.name}_zero", reader.origin)
            expand = {"self": stored, "size": reader.type.shape, "implicit": False}
            value = editor.ahead_of(reader, "aten.expand.default", expand, reader.type)
        else:
            value = _pick(editor, reader, probabilities, int((kept == place).nonzero()))
        editor.replace_uses(reader.value, value)
        editor.remove_unread([reader.name])


def _picks(graph: Graph, node: Node) -> list[tuple[Node, int]] | None:
    """Return (reader, position) where every reader picks one probability, else None."""
    found = []
    for reader, _ in graph.uses(node.value):
        if reader.op not in ("aten.slice.Tensor", "aten.select.int"):
            return None
        if reader.operand("dim") % node.type.rank != node.type.rank - 1:
            return None
        start = reader.operand("index") if reader.op == "aten.select.int" else (reader.operand("start") or 0)
        size = node.type.shape[-1]
        assert isinstance(size, int)
        if reader.op == "aten.slice.Tensor" and reader.type.shape[-1] != 1:
            return None
        found.append((reader, start % size))
    return found


def _pick(editor: Editor, reader: Node, source: Value, place: int) -> Value:
    changed = {"index": place} if reader.op == "aten.select.int" else {"start": place, "end": place + 1}
    operands = dict(reader.operands) | {"self": source} | changed
    return editor.ahead_of(reader, reader.op, operands, reader.type)
