r"""What works on the last axis between two transpositions, on the channels of an image instead.

    permute(0,2,3,1) -> LayerNorm, linear, gelu, x * gamma ... -> permute(0,3,1,2)

is how networks of convolutions are written that borrow layers of transformers. XNNPACK keeps images
with the channels innermost, whatever the order of the axes says: both permutations are copies that
undo each other, and between them nothing is fused. Over the channels of :math:`[N, C, H, W]` the
same is a 1x1 convolution for a linear, means by 1x1 convolutions for LayerNorm
(`targets.executorch.forms.norms`), and the activations as they are; no copy is left.

A part of the graph is rewritten only as a whole: each of its inputs comes from such a permutation and
each use outside goes to the inverse one, so that nothing is computed twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Dim, Graph, Kind, Node, Operand, TensorType, Value
from compiler.ir.verify import verify
from targets.executorch.forms.norms import normalised, over_last
from targets.rewriting import Maker

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
ALONE = frozenset(
    f"aten.{name}.default"
    for name in (
        *("relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh"),
        *("exp", "neg", "abs", "sqrt", "rsqrt"),
    )
)
PAIRS = frozenset(f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div"))
NORM, LINEAR = "aten.layer_norm.default", "aten.linear.default"

Twins = dict[Value, Value]


def channels_first(graph: Graph) -> Graph:
    """Return an equal graph whose parts between two transpositions work on channels."""
    inside = region(graph)
    if not inside:
        return graph
    editor, twins = Editor(graph), Twins()
    for node in graph.ops():
        if _turns(node, LAST) and any(n.name in inside for n in graph.users(node.name)):
            twins[node.value] = node.operand("self")
        elif node.name in inside:
            twins[node.value] = _WRITE.get(node.op, _elementwise)(editor, node, twins)
        elif _turns(node, FIRST) and node.operand("self").node in inside:
            editor.replace_uses(node.value, twins[node.operand("self")])
            editor.remove_unread([node.name])
    made = editor.finish()
    verify(made)
    return made


def region(graph: Graph) -> frozenset[str]:
    """Return the nodes that can work on channels with nothing else left to read them."""
    inside: set[str] = set()
    for node in graph.ops():
        if _movable(graph, node) and _fed(graph, node, inside):
            inside.add(node.name)
    while leaving := {name for name in inside if not _kept(graph, graph.node(name), inside)}:
        inside -= leaving
    return frozenset(inside)


def _kept(graph: Graph, node: Node, inside: set[str]) -> bool:
    """Tell whether all that a node reads comes from inside, and all that reads it is or turns back."""
    return _fed(graph, node, inside) and all(
        n.name in inside or _turns(n, FIRST) for n in graph.users(node.name)
    )


def _fed(graph: Graph, node: Node, inside: set[str]) -> bool:
    data = [v for _, v in node.values() if graph.producer(v).kind is not Kind.CONSTANT]
    return bool(data) and all(v.node in inside or _turns(graph.producer(v), LAST) for v in data)


def _movable(graph: Graph, node: Node) -> bool:
    if node.kind is not Kind.OP or node.type.rank != 4 or len(node.types) > 1:
        return False
    if node.op == NORM:
        return over_last(node) is not None and all(
            node.operand(k) is None or graph.constant(node.operand(k)) is not None for k in ("weight", "bias")
        )
    if node.op == LINEAR:
        return graph.constant(node.operand("weight")) is not None
    return node.op in ALONE or (node.op in PAIRS and all(_broadcasts(graph, o) for _, o in node.values()))


def _broadcasts(graph: Graph, value: Value) -> bool:
    """Tell whether a value is of the image's own rank, or a number or vector of channels."""
    if graph.producer(value).kind is not Kind.CONSTANT:
        return graph.type_of(value).rank == 4
    shape = graph.type_of(value).shape
    return all(d == 1 for d in shape[:-1])


def _turns(node: Node, dims: tuple[int, ...]) -> bool:
    return node.op == "aten.permute.default" and node.type.rank == 4 and _dims(node) == dims


def _dims(node: Node) -> tuple[int, ...]:
    return tuple(d % 4 for d in node.operand("dims"))


def _turned(type_: TensorType) -> tuple[Dim, ...]:
    return tuple(type_.shape[i] for i in FIRST)


def _norm(editor: Editor, node: Node, twins: Twins) -> Value:
    make, shape = Maker(editor, node), _turned(node.type)
    width = over_last(node)
    assert width is not None
    ones = make.constant(torch.full((1, width, 1, 1), 1 / width, dtype=torch.float64), "mean")

    def mean(of: Value, role: str) -> Value:
        return make.op("aten.conv2d.default", (of, ones), shape=(shape[0], 1, *shape[2:]))

    scale, shift = (_vector(make, editor.graph, node.operand(k), k) for k in ("weight", "bias"))
    return normalised(make, node, twins[node.operand("input")], mean, shape, scale, shift)


def _linear(editor: Editor, node: Node, twins: Twins) -> Value:
    make = Maker(editor, node)
    weight = editor.graph.constant(node.operand("weight"))
    assert weight is not None
    kernel = make.constant(weight[:, :, None, None], "kernel")
    operands = (twins[node.operand("input")], kernel, node.operand("bias"))
    return make.op("aten.conv2d.default", operands, shape=_turned(node.type))


def _elementwise(editor: Editor, node: Node, twins: Twins) -> Value:
    make = Maker(editor, node)

    def turned(key: str, operand: Operand) -> Operand:
        if not isinstance(operand, Value):
            return operand
        return twins[operand] if operand in twins else _vector(make, editor.graph, operand, key)

    operands = tuple((key, turned(key, operand)) for key, operand in node.operands)
    moved = dataclasses.replace(
        node,
        name=editor.name(node.name),
        operands=operands,
        types=(dataclasses.replace(node.type, shape=_turned(node.type)),),
    )
    return editor.add(moved, before=node.name)


def _vector(make: Maker, graph: Graph, operand: Operand, role: str) -> Operand:
    """Return a vector over channels as one over the second axis; numbers and None as they are."""
    found = graph.constant(operand)
    if found is None or found.numel() == 1:
        return operand
    return make.constant(found.reshape(1, -1, 1, 1), role)


_WRITE: Mapping[str, Callable[[Editor, Node, Twins], Value]] = {NORM: _norm, LINEAR: _linear}
