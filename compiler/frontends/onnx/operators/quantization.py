"""Quantised operators, written out in integers and scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import narrow_range
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.convolutions import conv
from compiler.frontends.onnx.registry import op

_RANGES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.uint16: (0, 2**16 - 1),
}


def _spread(call: Call, x: Tensor, part: Tensor) -> Tensor:
    """Bring a scale or zero point to the rank of `x`: for all, each slice of `axis`, or each block."""
    if part.dim() == 0 or part.numel() == 1:
        return part.reshape(())
    axis, block = call.attr("axis", 1) % x.dim(), call.attr("block_size", 0)
    if block:
        return part.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return part.reshape(*(-1 if i == axis else 1 for i in range(x.dim())))


@op("QuantizeLinear", slots=True)
def quantize(call: Call, x: Any, scale: Any, zero: Any = None) -> Tensor:
    """Round `x / scale` to even, add the zero point and saturate."""
    x, scale, point = map(call.tensor, (x, scale, zero))
    dtype = call.dtype(call.attr("output_dtype")) if call.attr("output_dtype") else torch.uint8
    code = call.attr("output_dtype") if zero is None else zero.code
    dtype = dtype if point is None else point.dtype
    shift = 0 if point is None else _spread(call, x, point)
    return _quantized(x / _spread(call, x, scale), shift, dtype, narrow_range(code))


def _quantized(ratio: Tensor, zero: Any, dtype: torch.dtype, bounds: tuple[int, int] | None = None) -> Tensor:
    if dtype not in _RANGES:
        raise UnsupportedModelError(f"quantisation to {dtype}")
    zero = zero.to(torch.int32) if isinstance(zero, Tensor) else zero
    return torch.clamp(torch.round(ratio) + zero, *(bounds or _RANGES[dtype])).to(dtype)


@op("DequantizeLinear")
def dequantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Take off the zero point and scale."""
    whole = x.to(scale.dtype) if x.dtype != torch.int32 else x
    if zero is not None:
        whole = whole - _spread(call, x, zero).to(whole.dtype)
    code = call.attr("output_dtype", 0)
    return (whole * _spread(call, x, scale)).to(call.dtype(code) if code else scale.dtype)


@op("DynamicQuantizeLinear")
def dynamic_quantize(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to uint8 by the range of the data, which includes zero."""
    low, high = torch.clamp(x.amin(), max=0), torch.clamp(x.amax(), min=0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return torch.clamp(torch.round(x / scale) + zero, 0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def _shifted(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Return the integers without their zero point, in float64: exact, and every kernel has it."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    zero = zero.to(torch.float64)
    if zero.dim() == 1 and zero.numel() > 1:
        zero = zero.reshape(*(-1 if i == axis % x.dim() else 1 for i in range(x.dim())))
    elif zero.numel() == 1:
        zero = zero.reshape(())
    return wide - zero


@op("MatMulInteger")
def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Multiply integers without their zero points."""
    return torch.matmul(_shifted(a, a_zero, -2), _shifted(b, b_zero, -1)).to(torch.int32)


@op("QLinearMatMul")
def qlinear_matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """Multiply integers without their zero points and quantise the product."""
    if any(t.numel() > 1 for t in (a_scale, a_zero, y_scale, y_zero)):
        raise UnsupportedModelError("QLinearMatMul with a scale or zero point for each row")
    product = torch.matmul(_shifted(a, a_zero, -2), _shifted(b, b_zero, -1))
    scale = a_scale.to(torch.float64) * b_scale.to(torch.float64) / y_scale.to(torch.float64)
    return _quantized(product * scale, y_zero, y_zero.dtype)


@op("ConvInteger")
def conv_integer(
    call: Call, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """Convolve integers without their zero points."""
    result: Tensor = conv(call, _shifted(x, x_zero, 1), _shifted(w, w_zero, 0)).to(torch.int32)
    return result


@op("QLinearConv")
def qlinear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve integers without their zero points and quantise the result."""
    own = None if bias is None else bias.to(torch.float64)
    product = conv(call, _shifted(x, x_zero, 1), _shifted(w, w_zero, 0), own)
    scale = x_scale.to(torch.float64) * w_scale.to(torch.float64) / y_scale.to(torch.float64)
    scale = scale.reshape(-1, *(1,) * (w.dim() - 2)) if scale.numel() > 1 else scale.reshape(())
    return _quantized(product * scale, y_zero, y_zero.dtype)
