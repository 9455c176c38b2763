"""Arithmetic with numbers, and activations made of it, in floats.

The SDK converts integers beside a floating tensor at run time, outside the delegate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value
from targets.rewriting import Maker


def number(editor: Editor, node: Node) -> Sequence[Value]:
    """Write an integer beside a floating tensor as a float."""
    other = node.operand("other")
    if isinstance(other, int) and node.type.dtype.is_floating_point:
        operands = tuple((key, float(other) if key == "other" else value) for key, value in node.operands)
        editor.update(dataclasses.replace(node, operands=operands))
    return ()


def subtract_from(editor: Editor, node: Node) -> Sequence[Value]:
    """Write `c - x` with a floating constant."""
    if node.operand("alpha") != 1 or not node.type.dtype.is_floating_point:
        return ()
    make = Maker(editor, node)
    minuend = make.constant(torch.tensor(float(node.operand("other"))), "minuend")
    return (make.op("aten.sub.Tensor", (minuend, node.operand("self"))),)


def reciprocal(editor: Editor, node: Node) -> Sequence[Value]:
    """Write `1 / x` as a division."""
    if not node.type.dtype.is_floating_point:
        return ()
    make = Maker(editor, node)
    return (make.op("aten.div.Tensor", (make.constant(torch.tensor(1.0), "one"), node.operand("self"))),)


def gelu(editor: Editor, node: Node) -> Sequence[Value]:
    """Write the GELU by tanh as `x sigmoid(x (a + b x^2))`; the delegate computes that by erf, silently.

    `a = 2 sqrt(2 / pi)` and `b = 0.044715 a`, for `(1 + tanh(u)) / 2 = sigmoid(2 u)`
    (Hendrycks and Gimpel, arXiv 1606.08415).
    """
    if node.operand("approximate") != "tanh" or node.type.dtype is not torch.float32:
        return ()
    make, x = Maker(editor, node), node.operand("self")
    slope = 2 * math.sqrt(2 / math.pi)
    a, b = make.constant(torch.tensor(slope), "slope"), make.constant(torch.tensor(0.044715 * slope), "bend")
    inner = make.op(
        "aten.add.Tensor", (make.op("aten.mul.Tensor", (make.op("aten.mul.Tensor", (x, x)), b)), a)
    )
    gate = make.op("aten.sigmoid.default", (make.op("aten.mul.Tensor", (x, inner)),))
    return (make.op("aten.mul.Tensor", (x, gate)),)


def hardsigmoid(editor: Editor, node: Node) -> Sequence[Value]:
    """Write `clamp(x + 3, 0, 6) / 6` with floating constants; the stock one converts integers at run time."""
    make = Maker(editor, node)
    three, sixth = make.constant(torch.tensor(3.0), "three"), make.constant(torch.tensor(1 / 6), "sixth")
    moved = make.op("aten.add.Tensor", (node.operand("self"), three))
    clamped = make.op("aten.hardtanh.default", (moved, 0.0, 6.0))
    return (make.op("aten.mul.Tensor", (clamped, sixth)),)
