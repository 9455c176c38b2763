"""What the XNNPACK delegate takes, as data: IR operations and the constraints on each.

The tables follow ExecuTorch 1.4.1's partitioner (`backends/xnnpack/partition/config`), seen through
the decompositions between the IR and the edge dialect; a test compares the two. Constraints that
need an operand's type (a constant weight, say) are the partitioner's to refuse: `lower` reports
what really fell outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from compiler.ir.graph import Node
from targets.executorch.forms.norms import over_last

Constraint = Callable[[Node], str | None]

DTYPES = (torch.float32, torch.float16)
QUANTIZED_DTYPES = (*DTYPES, torch.int8)


def unsupported(node: Node) -> str | None:
    """Return why XNNPACK leaves a node to a portable kernel, or None where it takes it."""
    if node.op not in SUPPORTED:
        return KNOWN_GAPS.get(node.op, f"XNNPACK has no {node.op}")
    allowed = QUANTIZED_DTYPES if node.op.startswith("quantized_decomposed.") else DTYPES
    for type_ in node.types[:1]:
        if type_.dtype not in allowed:
            return f"XNNPACK computes float32 and float16, not {str(type_.dtype).removeprefix('torch.')}"
    return next((reason for check in SUPPORTED[node.op] if (reason := check(node)) is not None), None)


def planar(node: Node) -> str | None:
    """One or two spatial dimensions."""
    return None if node.type.rank <= 4 else "only 1D and 2D convolutions"


def spatial(node: Node) -> str | None:
    """The mean of rank 4 over its last two dimensions."""
    dims = node.operand("dim")
    rank = node.type.rank + (0 if node.operand("keepdim") else len(dims or ()))
    if rank != 4 or not dims or sorted(d % 4 for d in dims) != [2, 3]:
        return "a mean is taken only over height and width of a rank-4 tensor"
    return None if node.operand("dtype") is None else "a mean that casts is not taken"


def global_pool(node: Node) -> str | None:
    """Adaptive pooling to one pixel, which is a mean."""
    return None if set(node.operand("output_size")) == {1} else "only adaptive pooling to 1x1"


def plain_pool(node: Node) -> str | None:
    """Average pooling that counts no padding."""
    if node.operand("ceil_mode"):
        return "average pooling in ceil mode"
    if node.operand("count_include_pad") and any(node.operand("padding")):
        return "average pooling that counts the padding"
    window = node.operand("kernel_size")
    override = node.operand("divisor_override")
    return None if override in (None, window[0] * window[-1]) else "a divisor override"


def overlapping(node: Node) -> str | None:
    """A stride within the window."""
    window = node.operand("kernel_size")
    stride = node.operand("stride") or window
    return None if all(s <= k for s, k in zip(stride, window, strict=True)) else "a stride above the window"


def last_axis(node: Node) -> str | None:
    """LayerNorm over the last axis, which legalisation rewrites."""
    if over_last(node) is None:
        return "XNNPACK has no layer norm over several axes; the portable kernel runs it"
    return None if node.type.rank <= 3 else static(node)


def last_dim(node: Node) -> str | None:
    """Softmax over the innermost dimension."""
    return None if node.operand("dim") in (-1, node.type.rank - 1) else "softmax only over the last dimension"


def square(node: Node) -> str | None:
    """The power 2."""
    return None if node.operand("exponent") == 2 else "only the power 2"


def several(node: Node) -> str | None:
    """Two tensors or more."""
    return None if len(node.operand("tensors")) >= 2 else "a concatenation of fewer than two tensors"


def unit_step(node: Node) -> str | None:
    """A slice of step 1 with known sizes."""
    if node.operand("step") != 1:
        return "a slice with a step"
    return None if node.type.static else "a slice of unknown size"


def static(node: Node) -> str | None:
    """A shape of integers."""
    return None if node.type.static else "an output of unknown size"


def unscaled(node: Node) -> str | None:
    """Take alpha 1 only."""
    return None if node.operand("alpha", 1) == 1 else "alpha other than 1"


def grows(node: Node) -> str | None:
    """Zero or more padding on each side."""
    return None if min(node.operand("pad")) >= 0 else "negative padding"


def trailing(node: Node) -> str | None:
    """Take unsqueeze behind the last dimension only."""
    last = node.operand("dim") in (-1, node.type.rank - 1)
    return None if last or node.type.static else "unsqueeze of unknown size only behind the last dimension"


def whole_batch(node: Node) -> str | None:
    """BatchNorm of rank 2 to 4, which legalisation rewrites."""
    return None if isinstance(node.type.shape[1], int) else "unknown channel count"


SUPPORTED: Mapping[str, tuple[Constraint, ...]] = {
    "aten.conv1d.default": (planar,),
    "aten.conv2d.default": (planar,),
    "aten.convolution.default": (planar,),
    "aten.conv_transpose2d.input": (planar,),
    "aten.linear.default": (),
    "aten.addmm.default": (),
    "aten.bmm.default": (),
    "aten.matmul.default": (static,),
    "aten.batch_norm.default": (whole_batch,),
    "aten.layer_norm.default": (last_axis,),
    "aten.scaled_dot_product_attention.default": (static,),
    "aten.adaptive_avg_pool2d.default": (global_pool,),
    "aten.avg_pool2d.default": (plain_pool,),
    "aten.max_pool2d.default": (overlapping,),
    "aten.mean.dim": (spatial,),
    "aten.add.Tensor": (unscaled,),
    "aten.sub.Tensor": (unscaled,),
    "aten.mul.Tensor": (),
    "aten.div.Tensor": (),
    "aten.rsub.Scalar": (unscaled,),
    "aten.reciprocal.default": (),
    "aten.square.default": (),
    "aten.maximum.default": (),
    "aten.minimum.default": (),
    "aten.neg.default": (),
    "aten.abs.default": (),
    "aten.ceil.default": (),
    "aten.floor.default": (),
    "aten.exp.default": (),
    "aten.log.default": (),
    "aten.sqrt.default": (),
    "aten.rsqrt.default": (),
    "aten.sin.default": (),
    "aten.cos.default": (),
    "aten.pow.Tensor_Scalar": (square,),
    "aten.clamp.default": (),
    "aten.hardtanh.default": (),
    "aten.relu.default": (),
    "aten.relu6.default": (),
    "aten.leaky_relu.default": (),
    "aten.prelu.default": (),
    "aten.hardswish.default": (),
    "aten.hardsigmoid.default": (),
    "aten.sigmoid.default": (),
    "aten.silu.default": (),
    "aten.tanh.default": (),
    "aten.gelu.default": (),
    "aten.softmax.int": (last_dim,),
    "aten._softmax.default": (last_dim,),
    "aten.cat.default": (several,),
    "aten.slice.Tensor": (unit_step,),
    "aten.chunk.default": (static,),
    "aten.split.Tensor": (static,),
    "aten.split_with_sizes.default": (static,),
    "aten.constant_pad_nd.default": (grows,),
    "aten.pad.default": (grows,),
    "aten.permute.default": (),
    "aten.transpose.int": (),
    "aten.reshape.default": (static,),
    "aten.flatten.using_ints": (static,),
    "aten.unsqueeze.default": (trailing,),
    "aten.squeeze.default": (static,),
    "aten.squeeze.dim": (static,),
    "aten.squeeze.dims": (static,),
    "aten.unbind.int": (static,),
    "aten.select.int": (static,),
    "aten.upsample_bilinear2d.vec": (static,),
    "quantized_decomposed.quantize_per_tensor.default": (),
    "quantized_decomposed.dequantize_per_tensor.default": (),
    "quantized_decomposed.dequantize_per_channel.default": (),
}

KNOWN_GAPS: Mapping[str, str] = {
    "aten.native_layer_norm.default": "XNNPACK has no layer norm; the portable kernel runs it",
    "aten.group_norm.default": "XNNPACK has no group norm; the portable kernel runs it",
    "aten.elu.default": "the partitioner of ExecuTorch 1.4.1 leaves elu out",
    "aten.embedding.default": "XNNPACK has no gather; the portable kernel runs it",
}
