"""Channels that are zero for every input are not computed (`merges.md` 2.32).

A row of zeros in a linear layer without a bias there gives a channel of zeros; what keeps zero keeps it so;
a length over the channels does not see it; and the linear layer that reads it has a column for nothing.
Rows and columns go together.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from compiler.ir.schema import normalize
from compiler.passes.dead_code import dead_code

_KEEP_ZERO = tuple(
    f"aten.{op}.default" for op in ("gelu", "relu", "silu", "tanh", "hardswish", "leaky_relu", "mish", "neg")
)
_SCALES = ("aten.mul.Tensor", "aten.div.Tensor", "aten.mul.Scalar", "aten.div.Scalar")
_LENGTH = "aten.linalg_vector_norm.default"


def drop_dead_channels(graph: Graph) -> Graph:
    """Return the graph without channels that are zero for every input."""
    for original in graph.ops():
        if original.name not in graph:
            continue
        node = graph.node(original.name)
        dead = _dead_rows(graph, node)
        if dead is None:
            continue
        between: dict[str, Node] = {}
        ends: dict[str, Node] = {}
        if _follow(graph, node, between, ends) and ends:
            graph = dead_code(_without(graph, node, between, ends, (~dead).nonzero().flatten()))
    return graph


def _dead_rows(graph: Graph, node: Node) -> torch.Tensor | None:
    """Return which rows of a linear layer give zero, None where none does or all do."""
    if node.op != "aten.linear.default" or node.type.rank < 2:
        return None
    weight, bias = graph.constant(node.operand("weight")), graph.constant(node.operand("bias"))
    if weight is None or (node.operand("bias") is not None and bias is None):
        return None
    dead = (weight == 0).all(1)
    dead = dead if bias is None else dead & (bias == 0)
    return dead if bool(dead.any()) and not bool(dead.all()) and _alone(graph, node) else None


def _alone(graph: Graph, node: Node) -> bool:
    """Tell whether a layer's weights are its own: slicing them copies nothing."""
    names = [node.operand(n) for n in ("weight", "bias")]
    return all(len(graph.uses(v)) == 1 for v in names if isinstance(v, Value))


def _follow(graph: Graph, node: Node, between: dict[str, Node], ends: dict[str, Node]) -> bool:
    """Collect what carries the zeros on and where they end; False where something else reads them."""
    for reader, path in graph.uses(node.value):
        if reader.op == "aten.linear.default" and path == "input":
            if graph.constant(reader.operand("weight")) is None or not _alone(graph, reader):
                return False
            ends[reader.name] = reader
        elif reader.op == _LENGTH:
            if [d % node.type.rank for d in reader.operand("dim") or ()] != [node.type.rank - 1]:
                return False
            ends[reader.name] = reader
        elif reader.op in _KEEP_ZERO or (reader.op in _SCALES and _scales_rows(graph, reader, path)):
            if reader.name not in between:
                between[reader.name] = reader
                if not _follow(graph, reader, between, ends):
                    return False
        else:
            return False
    return True


def _scales_rows(graph: Graph, node: Node, path: str) -> bool:
    """Tell whether a product or quotient scales all channels of a position alike."""
    if node.operand("rounding_mode") is not None or path != "self":
        return False
    other = node.operand("other")
    if isinstance(other, int | float):
        return True
    shape = graph.type_of(other).shape
    return not shape or shape[-1] == 1


def _without(
    graph: Graph, node: Node, between: dict[str, Node], ends: dict[str, Node], kept: torch.Tensor
) -> Graph:
    editor = Editor(graph)
    order = [n.name for n in graph.ops() if n.name in {node.name, *between, *ends}]
    for name in order:
        current = editor.graph.node(name)
        operands = dict(current.operands)
        type_ = current.type
        if name == node.name:
            operands |= {k: _picked(editor, current, k, 0, kept) for k in ("weight", "bias")}
        if name in ends and current.op == "aten.linear.default":
            operands["weight"] = _picked(editor, current, "weight", 1, kept)
        if name not in ends:
            type_ = TensorType((*type_.shape[:-1], len(kept)), type_.dtype)
        filled = normalize(current.op, (), operands)
        editor.update(replace(current, operands=filled, types=(type_,)))
    return editor.finish()


def _picked(editor: Editor, node: Node, name: str, axis: int, kept: torch.Tensor) -> Value | None:
    tensor = editor.graph.constant(node.operand(name))
    if tensor is None:
        return None
    value: Value = node.operand(name)
    stored = tensor.index_select(axis, kept).contiguous()
    return editor.constant(
        stored, f"{value.node}_live", editor.graph.producer(value).origin, before=node.name
    )
