r"""GroupNorm of an image in means over its plane and over its channels, by two short products.

With :math:`m` the mean of each channel's plane, :math:`M m` for the block matrix :math:`M` of :math:`g/C`
is the mean of its group, and :math:`y = d \cdot (w / \sqrt{M v + \epsilon}) + b` with :math:`d = x - M m` and
:math:`v` the plane's mean of :math:`d^2` (Wu and He, arXiv 1803.08494). ExecuTorch's delegate has no group
norm, and its kernel, like TVM's, adds a whole group up one by one, of which a float32 sum is less exact than
of planes: poolformer's groups have 200,000 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value
from targets.rewriting import Maker, tensor


def group_norm(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a float32 GroupNorm of rank 4; another is left."""
    x, groups, channels = node.operand("input"), node.operand("num_groups"), node.type.shape[1]
    if node.type.rank != 4 or node.type.dtype is not torch.float32 or not isinstance(channels, int):
        return ()
    given = [node.operand(key) for key in ("weight", "bias")]
    weight, bias = (tensor(editor, operand) for operand in given)
    if [weight is None, bias is None] != [operand is None for operand in given]:
        return ()  # one of them is computed
    make = Maker(editor, node)
    matrix = make.constant(_means(channels, groups), "groups")
    plane = (node.type.shape[0], channels, 1, 1)
    group = (node.type.shape[0], 1 if groups == 1 else channels, 1, 1)

    def mean(of: Value) -> Value:
        over = make.op("aten.mean.dim", (of, (2, 3), True), shape=plane)
        return make.op("aten.conv2d.default", (over, matrix), shape=group)

    d = make.op("aten.sub.Tensor", (x, mean(x)))
    eps = make.constant(torch.tensor(node.operand("eps"), dtype=torch.float64), "eps")
    variance = make.op("aten.add.Tensor", (mean(make.op("aten.mul.Tensor", (d, d))), eps), shape=group)
    scale = make.op("aten.rsqrt.default", (variance,), shape=group)
    if weight is not None:
        factor = make.constant(weight.reshape(1, -1, 1, 1), "weight")
        scale = make.op("aten.mul.Tensor", (scale, factor), shape=plane)
    y = make.op("aten.mul.Tensor", (d, scale))
    if bias is not None:
        y = make.op("aten.add.Tensor", (y, make.constant(bias.reshape(1, -1, 1, 1), "bias")))
    return (y,)


def _means(channels: int, groups: int) -> torch.Tensor:
    """Return the matrix that takes each channel's number to its group's mean; one row for one group."""
    width = channels // groups
    block = torch.full((1 if groups == 1 else width, width), 1 / width, dtype=torch.float64)
    return torch.kron(torch.eye(groups, dtype=torch.float64), block)[:, :, None, None]
