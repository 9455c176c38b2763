r"""Rewrites a graph into equal operations that XNNPACK takes, before the SDK sees it.

Each rule is exact over the reals and only touches what would be slower or wrong otherwise:

- BatchNorm, :math:`y = \gamma (x-\mu)/\sqrt{v+\epsilon} + \beta`, becomes a depthwise 1x1
  convolution (rank 4) or a product and a sum, :math:`y = s x + t` with :math:`s, t` computed in
  float64 and cast once. ExecuTorch 1.4.1 fuses BatchNorm into a convolution under a name made from
  the weight's, which is silently wrong where two convolutions share a weight; here it never
  sees a BatchNorm. (Merging into convolutions is the merge engine's work, before this.)
- `mean` over height and width without `keepdim` keeps them and reshapes: XNNPACK takes only that.
- Pooling to one pixel is that mean.
- `avg_pool2d` without padding never counts padding, which XNNPACK wants to be told; it also
  expects the stride of a pool in full, and fails on the default.
- Attention without mask becomes bmm, softmax, bmm: ExecuTorch's own decomposition guards fully
  masked rows with operations that no delegate takes.
- `hardsigmoid` becomes a clamp between a sum and a product, `c - x` and `1 / x` a difference and a
  quotient, and an integer beside a floating tensor a float, which the SDK would convert at run time.
- `unbind`, `select`, `squeeze` and `unsqueeze` become slices of one and reshapes, which it takes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from targets.rewriting import Maker, Rule, affine_norm, rewrite, scale_and_shift


def legalise(graph: Graph) -> Graph:
    """Return an equal graph in the operations XNNPACK takes; the same graph where no rule applies."""
    return rewrite(graph, RULES)


def batch_norm(editor: Editor, node: Node) -> Sequence[Value]:
    """Write BatchNorm as `s x + t`, a depthwise 1x1 convolution where the input has rank 4."""
    channels, found = node.type.shape[1], scale_and_shift(editor, node)
    if node.type.rank != 4 or found is None or not isinstance(channels, int):
        return affine_norm(editor, node)
    make, (scale, shift) = Maker(editor, node), found
    s, t = make.constant(scale.reshape(-1, 1, 1, 1), "scale"), make.constant(shift, "shift")
    return (make.op("aten.conv2d.default", (node.operand("input"), s, t), {"groups": channels}),)


def mean(editor: Editor, node: Node) -> Sequence[Value]:
    """Keep the reduced dimensions of a spatial mean, then reshape them away."""
    x = node.operand("self")
    type_, dims = editor.graph.type_of(x), node.operand("dim")
    if node.operand("keepdim") or type_.rank != 4 or not dims or sorted(d % 4 for d in dims) != [2, 3]:
        return ()
    make = Maker(editor, node)
    options, kept_shape = {"dtype": node.operand("dtype")}, (*type_.shape[:2], 1, 1)
    kept = make.op("aten.mean.dim", (x, dims, True), options, shape=kept_shape)
    return (make.op("aten.reshape.default", (kept, node.type.shape)),)


def global_pool(editor: Editor, node: Node) -> Sequence[Value]:
    """Write pooling to one pixel as a mean: its decomposition depends on strides no delegate takes."""
    if set(node.operand("output_size")) != {1} or node.type.rank != 4:
        return ()
    return (Maker(editor, node).op("aten.mean.dim", (node.operand("self"), (2, 3), True)),)


def pool(editor: Editor, node: Node) -> Sequence[Value]:
    """Write out a stride left to its default, and that padding is not counted where there is none."""
    changes = {} if node.operand("stride") else {"stride": node.operand("kernel_size")}
    free = not any(node.operand("padding")) and not node.operand("ceil_mode")
    if free and node.operand("count_include_pad"):
        changes["count_include_pad"] = False
    operands = tuple((key, changes.get(key, value)) for key, value in node.operands)
    editor.update(dataclasses.replace(node, operands=operands))
    return ()


def attention(editor: Editor, node: Node) -> Sequence[Value]:
    """Write unmasked attention as bmm, softmax, bmm over the flattened leading dimensions."""
    q, k, v = (node.operand(name) for name in ("query", "key", "value"))
    types = [editor.graph.type_of(t) for t in (q, k, v)]
    masked = node.operand("attn_mask") is not None or node.operand("is_causal") or node.operand("enable_gqa")
    lead = types[0].shape[:-2]
    if masked or len(lead) < 1 or not all(t.static and t.shape[:-2] == lead for t in types):
        return ()
    batch = math.prod(lead)  # type: ignore[arg-type]
    (rows, width), (columns, _), (_, depth) = (t.shape[-2:] for t in types)
    scale = node.operand("scale")
    factor = 1.0 / math.sqrt(width) if scale is None else scale  # type: ignore[arg-type]
    make = Maker(editor, node)
    root = make.constant(torch.tensor(factor), "scale")
    scaled = make.op("aten.mul.Tensor", (q, root), shape=types[0].shape)
    q3 = make.op("aten.reshape.default", (scaled, (batch, rows, width)))
    k3 = make.op("aten.reshape.default", (k, (batch, columns, width)))
    v3 = make.op("aten.reshape.default", (v, (batch, columns, depth)))
    turned = make.op("aten.permute.default", (k3, (0, 2, 1)), shape=(batch, width, columns))
    scores = make.op("aten.bmm.default", (q3, turned), shape=(batch, rows, columns))
    weights = make.op("aten.softmax.int", (scores, -1), shape=(batch, rows, columns))
    mixed = make.op("aten.bmm.default", (weights, v3), shape=(batch, rows, depth))
    return (make.op("aten.reshape.default", (mixed, node.type.shape)),)


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


def hardsigmoid(editor: Editor, node: Node) -> Sequence[Value]:
    """Write `clamp(x + 3, 0, 6) / 6` with floating constants; the stock one converts integers at run time."""
    make = Maker(editor, node)
    three, sixth = make.constant(torch.tensor(3.0), "three"), make.constant(torch.tensor(1 / 6), "sixth")
    moved = make.op("aten.add.Tensor", (node.operand("self"), three))
    clamped = make.op("aten.hardtanh.default", (moved, 0.0, 6.0))
    return (make.op("aten.mul.Tensor", (clamped, sixth)),)


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


def _taken(editor: Editor, node: Node, type_: TensorType, dim: int, index: int) -> Value:
    make = Maker(editor, node)
    one = tuple(1 if i == dim else d for i, d in enumerate(type_.shape))
    part = make.op("aten.slice.Tensor", (node.operand("self"), dim, index, index + 1, 1), shape=one)
    return make.op("aten.reshape.default", (part, node.types[0].shape))


RULES: Mapping[str, Rule] = {
    "aten.batch_norm.default": batch_norm,
    "aten.mean.dim": mean,
    "aten.adaptive_avg_pool2d.default": global_pool,
    "aten.avg_pool2d.default": pool,
    "aten.max_pool2d.default": pool,
    "aten.scaled_dot_product_attention.default": attention,
    "aten.add.Tensor": number,
    "aten.sub.Tensor": number,
    "aten.mul.Tensor": number,
    "aten.div.Tensor": number,
    "aten.rsub.Scalar": subtract_from,
    "aten.reciprocal.default": reciprocal,
    "aten.hardsigmoid.default": hardsigmoid,
    "aten.unbind.int": unbind,
    "aten.select.int": select,
    "aten.squeeze.default": reshaped,
    "aten.squeeze.dim": reshaped,
    "aten.squeeze.dims": reshaped,
    "aten.unsqueeze.default": reshaped,
}
