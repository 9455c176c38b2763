r"""Writes what TVM's importers do not know, or take wrongly, in operations that they read.

They know no quantize and dequantize. A quantize is :math:`\mathrm{clamp}(\mathrm{round}(x \cdot 1/s) + z)`
cast to a byte, a dequantize :math:`s (q - z)` in float32, as PT2E defines them; TVM fuses both into the
kernels beside them. The arithmetic of the kernels stays float32, and so do stored weights: an int8
weight is read back here, once, for TVM would fold it all the same. Such a program computes what the
int8 graph does, in the time and size of the float one.

A nearest resize by other than whole factors comes out as other pixels, a bicubic or antialiased one not at
all: `targets/resizes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from compiler.ir.schema import normalize
from targets.norms import group_norm
from targets.resizes import NEAREST, SMOOTH, nearest, smooth
from targets.rewriting import Rule, rewrite


def legalise(graph: Graph) -> Graph:
    """Return an equal graph in operations the importers read; the same graph where no rule applies."""
    return rewrite(graph, RULES)


def quantize(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a quantize per tensor as product, round, sum, clamp and cast."""
    x, low, high = (node.operand(key) for key in ("input", "quant_min", "quant_max"))
    if editor.graph.type_of(x).dtype is not torch.float32:
        x = _cast(editor, node, x, torch.float32)
    value = _op(editor, node, "aten.mul.Tensor", x, 1.0 / node.operand("scale"))
    value = _op(editor, node, "aten.round.default", value)
    if zero := node.operand("zero_point"):
        value = _op(editor, node, "aten.add.Tensor", value, float(zero))
    value = _op(editor, node, "aten.clamp.default", value, float(low), float(high))
    return (_cast(editor, node, value, node.type.dtype),)


def dequantize(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a dequantize per tensor as cast, difference and product; of a constant, as a constant."""
    if folded := constant(editor, node):
        return folded
    dtype = node.type.dtype
    value = _cast(editor, node, node.operand("input"), dtype)
    if zero := node.operand("zero_point"):
        value = _op(editor, node, "aten.sub.Tensor", value, float(zero), like=dtype)
    return (_op(editor, node, "aten.mul.Tensor", value, node.operand("scale"), like=dtype),)


def constant(editor: Editor, node: Node) -> Sequence[Value]:
    """Write the dequantize of a constant as the float constant."""
    values: dict[Value, Any] = {v: editor.graph.constant(v) for _, v in node.values()}
    if any(tensor is None for tensor in values.values()):
        return ()
    run_node(node, values, {})
    return (editor.constant(values[node.value], f"{node.name}_float", node.origin, before=node.name),)


def _cast(editor: Editor, node: Node, value: Value, dtype: torch.dtype) -> Value:
    return _op(editor, node, "aten._to_copy.default", value, dtype=dtype)


def _op(
    editor: Editor,
    node: Node,
    op: str,
    *args: Any,
    dtype: torch.dtype | None = None,
    like: torch.dtype = torch.float32,
) -> Value:
    """Place an operation in front of a node, with its shape; `dtype` is one it is told, else it is `like`."""
    operands = dict(normalize(op, args, {} if dtype is None else {"dtype": dtype}))
    type_, hint = TensorType(node.type.shape, dtype or like), f"{node.name}_{op.split('.')[1]}"
    return editor.op(op, operands, [type_], hint, node.origin, node.source, before=node.name)


RULES: Mapping[str, Rule] = {
    "quantized_decomposed.quantize_per_tensor.default": quantize,
    "quantized_decomposed.dequantize_per_tensor.default": dequantize,
    "quantized_decomposed.dequantize_per_channel.default": constant,
    "aten.group_norm.default": group_norm,
    **dict.fromkeys(NEAREST, nearest),
    **dict.fromkeys(SMOOTH, smooth),
}
