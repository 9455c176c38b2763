r"""Normalisations in operations that the delegate takes.

- BatchNorm, :math:`y = \gamma (x-\mu)/\sqrt{v+\epsilon} + \beta`, is a depthwise 1x1 convolution
  (rank 4) or a product and a sum, :math:`y = s x + t` with :math:`s, t` computed in float64 and cast
  once. ExecuTorch 1.4.1 fuses BatchNorm into a convolution under a name made from the weight's,
  which is silently wrong where two convolutions share a weight; here it never sees a BatchNorm.
  (Merging into convolutions is the merge engine's work, before this.)
- LayerNorm over the last axis, :math:`d = x - m`, :math:`y = d / \sqrt{v + \epsilon} \cdot w + b`,
  takes its two means :math:`m` of `x` and :math:`v` of :math:`d^2` as products with :math:`1/C`:
  XNNPACK has no layer norm, and its mean is over height and width only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Dim, Node, Operand, Value
from targets.rewriting import Maker, affine_norm, scale_and_shift

Mean = Callable[[Value, str], Value]


def batch_norm(editor: Editor, node: Node) -> Sequence[Value]:
    """Write BatchNorm as `s x + t`, a depthwise 1x1 convolution where the input has rank 4."""
    channels, found = node.type.shape[1], scale_and_shift(editor, node)
    if node.type.rank != 4 or found is None or not isinstance(channels, int):
        return affine_norm(editor, node)
    make, (scale, shift) = Maker(editor, node), found
    s, t = make.constant(scale.reshape(-1, 1, 1, 1), "scale"), make.constant(shift, "shift")
    return (make.op("aten.conv2d.default", (node.operand("input"), s, t), {"groups": channels}),)


def layer_norm(editor: Editor, node: Node) -> Sequence[Value]:
    """Write LayerNorm over the last axis with products for means, over rows of channels."""
    width = over_last(node)
    if width is None:
        return ()
    make, x, shape = Maker(editor, node), node.operand("input"), node.type.shape
    ones = make.constant(torch.full((1, width), 1 / width, dtype=torch.float64), "mean")

    def mean(of: Value, role: str) -> Value:
        return make.op("aten.linear.default", (of, ones, None), shape=(*shape[:-1], 1))

    y = normalised(make, node, x, mean, shape, node.operand("weight"), node.operand("bias"))
    return (y,)


def over_last(node: Node) -> int | None:
    """Return the width of a float32 LayerNorm over the last axis alone, None for another.

    In float16 the square of a difference overflows, where the kernel computes in float32.
    """
    axes = node.operand("normalized_shape")
    return (
        axes[0] if len(axes) == 1 and isinstance(axes[0], int) and node.type.dtype is torch.float32 else None
    )


def normalised(
    make: Maker, node: Node, x: Value, mean: Mean, shape: Sequence[Dim], weight: Operand, bias: Operand
) -> Value:
    """Write `d / sqrt(v + eps) * w + b` by a way to take means; `weight` and `bias` broadcast to `shape`."""

    def op(name: str, *arguments: Operand, like: Sequence[Dim] = shape) -> Value:
        return make.op(f"aten.{name}", arguments, shape=like)

    average = mean(x, "average")
    one = make.editor.graph.type_of(average).shape
    d = op("sub.Tensor", x, average)
    variance = mean(op("mul.Tensor", d, d), "variance")
    eps = make.constant(torch.tensor(node.operand("eps"), dtype=torch.float64), "eps")
    root = op("rsqrt.default", op("add.Tensor", variance, eps, like=one), like=one)
    y = op("mul.Tensor", d, root)
    y = y if weight is None else op("mul.Tensor", y, weight)
    return y if bias is None else op("add.Tensor", y, bias)
