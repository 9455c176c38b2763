"""Canonical form: one spelling for each thing, nothing that computes nothing.

- aliases vanish: clone, alias, detach, contiguous, dropout in eval, a cast to the same dtype, an
  expand or reshape to the same shape, a slice of everything;
- every transposition is `aten.permute` with non-negative dims; permutes in a row compose, and an
  inverse pair cancels; one of data that only moves axes of one element is a reshape;
- a reshape of a reshape is one reshape; padding with a constant is `aten.constant_pad_nd`.

One walk in topological order reaches the fixpoint, since every rule looks only at the operand.
"""

from __future__ import annotations

import dataclasses
import sys

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.ir.schema import normalize

_ALIASES = {
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.contiguous.default",
    "aten.lift_fresh_copy.default",
    "aten.dropout.default",
    "aten.feature_dropout.default",
    "aten._to_copy.default",
    "aten.to.dtype",
    "aten.to.dtype_layout",
    "aten.expand.default",
    "aten.reshape.default",
}
_RESHAPES = {"aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"}
_PRODUCTS = {"aten.mm.default", "aten.matmul.default"}
_TRANSPOSITIONS = {"aten.transpose.int", "aten.t.default", "aten.permute.default", "aten.numpy_T.default"}


def canonicalize(graph: Graph) -> Graph:
    """Return the graph in canonical form."""
    editor = Editor(graph)
    for original in graph.nodes():
        if original.kind is not Kind.OP:
            continue
        node = _rewritten(editor.graph, editor.graph.node(original.name))
        if node is not original:
            editor.update(node)
        source = _alias_of(editor.graph, node)
        if source is not None:
            editor.replace_uses(node.value, source)
            editor.remove_unread([node.name])
    return editor.finish()


def _rewritten(graph: Graph, node: Node) -> Node:
    if node.op in _TRANSPOSITIONS:
        return _permute(graph, node)
    if node.op in _PRODUCTS:
        return _linear(graph, node)
    if node.op in _RESHAPES:
        return _reshape(graph, node, node.operands[0][1])
    if node.op == "aten.pad.default" and node.operand("mode") == "constant":
        operands = {k: node.operand(k) for k in ("self", "pad")} | {"value": node.operand("value") or 0.0}
        return _with(node, "aten.constant_pad_nd.default", operands)
    return node


def _linear(graph: Graph, node: Node) -> Node:
    """Return a product with a transposed weight as the `linear` it is; a weight is never copied for it."""
    left, right = (operand for _, operand in node.operands[:2])
    maker = graph.producer(right)
    turned = maker.op == "aten.permute.default" and _dims(maker) == (1, 0)
    weight = maker.operand("self") if turned else None
    if weight is None or graph.producer(weight).kind is not Kind.CONSTANT or graph.type_of(left).rank < 2:
        return node
    if graph.producer(left).kind is Kind.CONSTANT or graph.type_of(left).rank < node.type.rank:
        return node
    return _with(node, "aten.linear.default", {"input": left, "weight": weight, "bias": None})


def _permute(graph: Graph, node: Node) -> Node:
    source, dims = node.operands[0][1], _dims(node)
    inner = graph.producer(source)
    if inner.op == "aten.permute.default":
        source, dims = inner.operand("self"), tuple(_dims(inner)[d] for d in dims)
    shape = graph.type_of(source).shape
    moved = [d for d in dims if shape[d] != 1]
    if moved == sorted(moved) and graph.producer(source).kind is not Kind.CONSTANT:
        return _reshape(graph, node, source)
    return _with(node, "aten.permute.default", {"self": source, "dims": dims})


def _reshape(graph: Graph, node: Node, source: Value) -> Node:
    inner = graph.producer(source)
    source = inner.operands[0][1] if inner.op in _RESHAPES else source
    return _with(node, "aten.reshape.default", {"self": source, "shape": node.type.shape})


def _dims(node: Node) -> tuple[int, ...]:
    rank = node.type.rank
    if node.op == "aten.permute.default":
        return tuple(d % rank for d in node.operand("dims"))
    dims = list(range(rank))
    if node.op == "aten.transpose.int":
        a, b = node.operand("dim0") % max(rank, 1), node.operand("dim1") % max(rank, 1)
        dims[a], dims[b] = dims[b], dims[a]
        return tuple(dims)
    return tuple(reversed(dims))


def _with(node: Node, op: str, operands: dict[str, object]) -> Node:
    changed = dataclasses.replace(node, op=op, operands=normalize(op, (), operands))
    return node if changed == node else changed


def _alias_of(graph: Graph, node: Node) -> Value | None:
    """Return the value this node merely repeats, if it does."""
    source = node.operands[0][1] if node.operands else None
    if not isinstance(source, Value) or len(node.types) != 1 or graph.type_of(source) != node.type:
        return None
    if node.op in _ALIASES and not (node.operand("train") or node.operand("training")):
        return source
    if node.op == "aten.permute.default" and _dims(node) == tuple(range(node.type.rank)):
        return source
    whole = node.operand("start") in (None, 0) and node.operand("step") == 1
    if node.op == "aten.slice.Tensor" and whole and node.operand("end") in (None, sys.maxsize):
        return source
    return None
