"""Convolutions written into a graph in the place of one that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.compress.convolution_fit import Convolution
from compiler.compress.sites import bias_of, weight_of
from compiler.ir.edit import Editor
from compiler.ir.graph import Dim, Graph, Node, TensorType
from compiler.ir.schema import normalize


def convolution_of(graph: Graph, node: Node) -> Convolution:
    """Return a `conv2d` with constant weights as a value."""
    stride, padding, dilation = (node.operand(key) for key in ("stride", "padding", "dilation"))
    return Convolution(
        weight_of(graph, node), bias_of(graph, node), stride, padding, dilation, node.operand("groups")
    )


def put(editor: Editor, node: Node, convolutions: Sequence[Convolution]) -> None:
    """Put convolutions in a row in the place of a `conv2d`; the last keeps its name.

    All but the last stand one level below its module and have no bias.
    """
    old = [node.operand(key) for key in ("weight", "bias")]
    value, shape = node.operand("input"), editor.graph.type_of(node.operand("input")).shape
    for index, conv in enumerate(convolutions[:-1]):
        shape = _shape(shape, conv)
        origin = f"{node.origin or 'model'}.part{index + 1}"
        operands = _operands(editor, node, conv, index) | {"input": value, "bias": None}
        types = [TensorType(shape, node.type.dtype)]
        hint = f"{node.name}_part{index + 1}"
        value = editor.op(node.op, operands, types, hint, origin, node.source, node.name)
    last = _operands(editor, node, convolutions[-1], len(convolutions) - 1) | {"input": value}
    editor.update(replace(node, operands=normalize(node.op, (), last)))
    editor.remove_unread([v.node for v in old if v is not None])


def _operands(editor: Editor, node: Node, conv: Convolution, index: int) -> dict[str, object]:
    name = node.operand("weight").node
    origin = f"{editor.graph.node(name).origin}.part{index + 1}"
    weight, bias = (
        editor.constant(
            tensor.to(node.type.dtype).contiguous(), f"{name}_{what}{index + 1}", origin, node.name
        )
        for tensor, what in ((conv.weight, "part"), (conv.bias, "bias"))
    )
    return {
        "weight": weight,
        "bias": bias,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
    }


def _shape(shape: Sequence[Dim], conv: Convolution) -> tuple[Dim, ...]:
    """Return the shape of a convolution's output; a side known only at run time must not change."""
    sides: list[Dim] = []
    for side, *numbers in zip(
        shape[2:], conv.weight.shape[2:], conv.stride, conv.padding, conv.dilation, strict=True
    ):
        kernel, stride, padding, dilation = numbers
        reach = 2 * padding - dilation * (kernel - 1)
        sides.append((side + reach - 1) // stride + 1 if isinstance(side, int) else side)
    return (shape[0], len(conv.weight), *sides)
