"""Convolutions and pools with ONNX's paddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import Array
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.shapes import ints
from compiler.frontends.onnx.registry import op

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Window:
    """Kernel, stride, dilation and padding of a call by axis; `SAME` paddings follow from the sizes."""

    def __init__(self, call: Call, sizes: tuple[Any, ...], kernel: list[int]) -> None:
        """Read the attributes for an image of `sizes`."""
        rank = len(sizes)
        self.kernel = kernel
        self.stride: list[int] = call.attr("strides", [1] * rank)
        self.dilation: list[int] = call.attr("dilations", [1] * rank)
        pads = call.attr("pads", [0] * 2 * rank)
        self.pads = [(pads[i], pads[i + rank]) for i in range(rank)]
        self.auto = call.attr("auto_pad", "NOTSET")
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            self.pads = [self._same(i, size) for i, size in enumerate(sizes)]
        elif self.auto == "VALID":
            self.pads = [(0, 0)] * rank

    def extent(self, axis: int) -> int:
        """Return how far the kernel reaches on an axis."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def _same(self, axis: int, size: Any) -> tuple[int, int]:
        stride = self.stride[axis]
        total = max((-(-size // stride) - 1) * stride + self.extent(axis) - size, 0)
        small, large = total // 2, total - total // 2
        return (small, large) if self.auto == "SAME_UPPER" else (large, small)

    @property
    def even(self) -> bool:
        """Tell whether both sides of every axis are padded alike."""
        return all(left == right for left, right in self.pads)

    @property
    def flat(self) -> list[int]:
        """The paddings as `F.pad` takes them."""
        return [p for pair in reversed(self.pads) for p in pair]

    def last(self, axis: int, size: Any, ceil: bool) -> int:
        """Return how much more the end must be padded for `ceil_mode` to be a floor."""
        left, right = self.pads[axis]
        span, stride = size + left + right - self.extent(axis), self.stride[axis]
        count = -(-span // stride) if ceil else span // stride
        if ceil and count * stride >= size + left:  # the last window would begin in the padding
            count -= 1
        return max(count * stride - span, 0)  # type: ignore[no-any-return]


@op("Conv")
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve; uneven padding becomes a pad in front."""
    rank = weight.dim() - 2
    if rank not in _CONV:
        raise UnsupportedModelError(f"a convolution over {rank} axes")
    window = Window(call, tuple(x.shape[2:]), list(weight.shape[2:]))
    padding = [left for left, _ in window.pads]
    if not window.even:
        x, padding = F.pad(x, window.flat), [0] * rank
    return _CONV[rank](x, weight, bias, window.stride, padding, window.dilation, call.attr("group", 1))


@op("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve the other way; what padding cannot do alike on both sides is cut off after."""
    rank = weight.dim() - 2
    window = Window(call, tuple(x.shape[2:]), list(weight.shape[2:]))
    extra = call.attr("output_padding", [0] * rank)
    wanted = call.attr("output_shape")
    full = [(x.shape[2 + i] - 1) * window.stride[i] + extra[i] + window.extent(i) for i in range(rank)]
    if wanted is not None:
        extra = [e + max(w - f, 0) for e, f, w in zip(extra, full, wanted[-rank:], strict=True)]
        total = [max(f - w, 0) for f, w in zip(full, wanted[-rank:], strict=True)]
        upper = window.auto == "SAME_UPPER"  # alone has the smaller half in front here
        window.pads = [(t // 2, t - t // 2) if upper else (t - t // 2, t // 2) for t in total]
    elif window.auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(f - x.shape[2 + i] * window.stride[i], 0) for i, f in enumerate(full)]
        window.pads = [
            (t - t // 2, t // 2) if window.auto == "SAME_LOWER" else (t // 2, t - t // 2) for t in total
        ]
    groups = call.attr("group", 1)
    if window.even:
        padding = [left for left, _ in window.pads]
        return _TRANSPOSED[rank](x, weight, bias, window.stride, padding, extra, groups, window.dilation)
    y = _TRANSPOSED[rank](x, weight, bias, window.stride, 0, extra, groups, window.dilation)
    for axis, (left, right) in enumerate(window.pads):
        y = y.narrow(2 + axis, left, y.shape[2 + axis] - left - right)
    return y


@op("MaxPool")
def max_pool(call: Call, x: Tensor) -> Any:
    """Take the largest of each window, and where it lies where that is read."""
    window = Window(call, tuple(x.shape[2:]), call.attr("kernel_shape"))
    rank, ceil = len(window.kernel), bool(call.attr("ceil_mode", 0))
    small = all(left <= k // 2 for (left, _), k in zip(window.pads, window.kernel, strict=True))
    integer = not x.is_floating_point()
    kept, x = x.dtype, x.to(torch.float64) if integer else x
    if window.even and small:
        padding = [left for left, _ in window.pads]
        args = (window.kernel, window.stride, padding, window.dilation, ceil)
        if not call.wants(1):
            return _MAX_POOL[rank](x, *args).to(kept)
        values, places = _MAX_POOL[rank](x, *args, return_indices=True)
        return values.to(kept), _global(call, x, places)
    if call.wants(1):
        raise UnsupportedModelError("MaxPool with places and uneven padding")
    ends = [window.last(i, x.shape[2 + i], ceil) for i in range(rank)]
    window.pads = [(left, right + end) for (left, right), end in zip(window.pads, ends, strict=True)]
    x = F.pad(x, window.flat, value=-math.inf)
    return _MAX_POOL[rank](x, window.kernel, window.stride, 0, window.dilation).to(kept)


def _global(call: Call, x: Tensor, places: Tensor) -> Tensor:
    """Turn places in a plane into places in the tensor, by columns where `storage_order` says so."""
    plane = math.prod(x.shape[2:])
    if call.attr("storage_order", 0):
        height, width = x.shape[2:]
        places = places % width * height + places // width
    start = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *(1,) * (x.dim() - 2))
    return places + start * plane


@op("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """Average each window, the padding counted where `count_include_pad`."""
    window = Window(call, tuple(x.shape[2:]), call.attr("kernel_shape"))
    rank, ceil = len(window.kernel), bool(call.attr("ceil_mode", 0))
    counted = bool(call.attr("count_include_pad", 0))
    small = all(left <= k // 2 for (left, _), k in zip(window.pads, window.kernel, strict=True))
    if window.even and small and all(d == 1 for d in window.dilation):
        padding = [left for left, _ in window.pads]
        return _AVG_POOL[rank](x, window.kernel, window.stride, padding, ceil, counted)  # type: ignore[no-any-return]
    weight = torch.ones(x.shape[1], 1, *window.kernel, dtype=x.dtype)
    ones = torch.ones_like(x[:1])
    ones = F.pad(ones, window.flat, value=1.0 if counted else 0.0)
    ends = [window.last(i, x.shape[2 + i], ceil) for i in range(rank)]
    tail = [p for end in reversed(ends) for p in (0, end)]
    x, ones = F.pad(F.pad(x, window.flat), tail), F.pad(ones, tail)

    def total(y: Tensor) -> Tensor:
        return _CONV[rank](y, weight, None, window.stride, 0, window.dilation, x.shape[1])

    return total(x) / total(ones)


@op("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """Return the p-norm of each window."""
    window = Window(call, tuple(x.shape[2:]), call.attr("kernel_shape"))
    rank, p, ceil = len(window.kernel), call.attr("p", 2), bool(call.attr("ceil_mode", 0))
    ends = [window.last(i, x.shape[2 + i], ceil) for i in range(rank)]
    window.pads = [(left, right + end) for (left, right), end in zip(window.pads, ends, strict=True)]
    weight = torch.ones(x.shape[1], 1, *window.kernel, dtype=x.dtype)
    x = F.pad(x.abs() ** p, window.flat)
    total = _CONV[rank](x, weight, None, window.stride, 0, window.dilation, x.shape[1])
    result: Tensor = total ** (1 / p)
    return result


@op("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(call: Call, x: Tensor) -> Tensor:
    """Reduce each plane to one element."""
    axes = list(range(2, x.dim()))
    if call.step.op == "GlobalMaxPool":
        return torch.amax(x, axes, keepdim=True)
    if call.step.op == "GlobalLpPool":
        result: Tensor = torch.linalg.vector_norm(x, call.attr("p", 2), axes, keepdim=True)
        return result
    return torch.mean(x, axes, keepdim=True)


@op("MaxUnpool", host=(2,))
def max_unpool(call: Call, x: Tensor, places: Tensor, to: Array | None = None) -> Tensor:
    """Put each element back where MaxPool found it, zeros elsewhere."""
    window = Window(call, tuple(x.shape[2:]), call.attr("kernel_shape"))
    sizes = [
        (d - 1) * s + k - left - right
        for d, s, k, (left, right) in zip(x.shape[2:], window.stride, window.kernel, window.pads, strict=True)
    ]
    shape = [x.shape[0], x.shape[1], *sizes]
    made = torch.zeros(math.prod(shape), dtype=x.dtype).scatter(0, places.reshape(-1), x.reshape(-1))
    made = made.reshape(shape)
    if to is not None and ints(to) != shape:
        grown = [
            p for d, w in zip(reversed(shape[2:]), reversed(ints(to)[2:]), strict=True) for p in (0, w - d)
        ]
        made = F.pad(made, grown)
    return made


@op("Col2Im", host=(1, 2))
def col2im(call: Call, x: Tensor, image: Array, block: Array) -> Tensor:
    """Add up the columns of patches where they overlap."""
    sizes, kernel = ints(image), ints(block)
    window = Window(call, tuple(sizes), kernel)
    padding = [left for left, _ in window.pads]
    if len(sizes) == 2 and window.even:
        settings: list[Any] = [sizes, kernel, window.dilation, padding, window.stride]
        return F.fold(x, *settings)
    taps, channels = math.prod(kernel), x.shape[1] // math.prod(kernel)
    counts = [
        (d + left + right - window.extent(i)) // window.stride[i] + 1
        for i, (d, (left, right)) in enumerate(zip(sizes, window.pads, strict=True))
    ]
    columns = x.reshape(x.shape[0] * channels, taps, *counts)
    weight = torch.eye(taps, dtype=x.dtype).reshape(taps, 1, *kernel)
    made = _TRANSPOSED[len(sizes)](columns, weight, None, window.stride, 0, 0, 1, window.dilation)
    for axis, (size, left) in enumerate(zip(sizes, padding, strict=True)):
        short = left + size - made.shape[2 + axis]
        made = F.pad(made, [0, 0] * (len(sizes) - 1 - axis) + [0, max(short, 0)]).narrow(2 + axis, left, size)
    return made.reshape(x.shape[0], channels, *sizes)
