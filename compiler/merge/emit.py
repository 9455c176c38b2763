"""Emission: a tap map and a bias as the fewest ATen operations (`merges.md` 1.1).

With offsets `o_min .. o_max` on an axis and step `g = gcd(o - o_min)`, the kernel has
`K = (o_max - o_min) / g + 1` taps at dilation `g` and left padding `-o_min`; the right padding is any
that gives the same output size. Where both can be equal the convolution pads by itself; otherwise
either a pad (or crop) goes in front, or zero taps make the kernel symmetric, whichever is cheaper.
A diagonal map at one tap is a `mul`, an `add`, or a depthwise 1x1 convolution; rank 0 is `linear`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compiler.cost.counts import counts
from compiler.cost.roofline import Roofline
from compiler.ir.graph import Dim, Operand, TensorType
from compiler.merge.affine_ops import Layout
from compiler.merge.attempt import Refusal
from compiler.merge.shift import Shift
from compiler.merge.tap_map import TapMap, regrouped


class _Previous:
    """Stands for the value a step reads: the region's entry, or the step before."""


PREVIOUS = _Previous()


@dataclass(frozen=True, eq=False)
class Step:
    """One operation to emit; tensors among the operands become constants."""

    op: str
    operands: dict[str, Operand]
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Axis:
    """How one axis is emitted: kernel size, dilation, padding on both sides, first offset."""

    kernel: int
    dilation: int
    left: int
    right: int
    start: int


def emit(
    taps: TapMap,
    shift: Shift,
    layout: Layout,
    entry: TensorType,
    exit_: TensorType,
    price: Callable[[list[Step]], float],
) -> list[Step]:
    """Return the steps that compute a form; an empty list when it is the identity.

    Raises Refusal where no operation fits.
    """
    if layout is Layout.LAST or (taps.diagonal and taps.pointwise):
        return _pointwise(taps, shift, layout, exit_)
    if taps.rank > 3:
        raise Refusal(f"there is no convolution over {taps.rank} spatial axes")
    options = [_convolution(taps, shift, axes, entry, exit_) for axes in _geometries(taps)]
    return min(options, key=price)


def step_price(
    steps: list[Step], entry: tuple[int, ...], size: Callable[[Dim], int], itemsize: int, roofline: Roofline
) -> float:
    """Return the price of steps that begin at a value of shape `entry`."""
    total, previous = 0.0, entry
    for step in steps:
        shapes = [
            previous if o is PREVIOUS else tuple(o.shape) for o in step.operands.values() if _is_tensor(o)
        ]
        previous = tuple(size(d) for d in step.shape)
        total += roofline.cost(counts(step.op, shapes, [previous], itemsize))
    return total


def _is_tensor(operand: Operand) -> bool:
    return operand is PREVIOUS or isinstance(operand, torch.Tensor)


def _pointwise(taps: TapMap, shift: Shift, layout: Layout, exit_: TensorType) -> list[Step]:
    if not taps.diagonal:
        weight = _dense(taps)
        return [
            Step("aten.linear.default", {"input": PREVIOUS, "weight": weight, "bias": shift}, exit_.shape)
        ]
    scale = taps.weight.reshape(-1)
    real = scale.device.type != "meta"
    one = real and bool((scale == 1).all())
    zero = shift is None or (real and not bool(shift.any()))
    trailing = (1,) * taps.rank if layout is Layout.FIRST else ()
    if one or zero:
        parts = [("aten.mul.Tensor", scale, one), ("aten.add.Tensor", shift, zero)]
        return [
            Step(op, {"self": PREVIOUS, "other": _column(t, trailing)}, exit_.shape)
            for op, t, skip in parts
            if not skip
        ]
    if layout is Layout.FIRST and taps.rank <= 3:
        axes = (Axis(1, 1, 0, 0, 0),) * taps.rank
        return _convolution(taps, shift, axes, exit_, exit_)
    steps = [("aten.mul.Tensor", scale), ("aten.add.Tensor", shift)]
    return [Step(op, {"self": PREVIOUS, "other": _column(t, trailing)}, exit_.shape) for op, t in steps]


def _column(tensor: Shift, trailing: tuple[int, ...]) -> torch.Tensor:
    assert tensor is not None
    return tensor.reshape(-1, *trailing)


def _dense(taps: TapMap) -> torch.Tensor:
    """Return the one matrix of a rank-0 map, [Co, Ci]."""
    return regrouped(taps, 1).weight[0, 0]


def _geometries(taps: TapMap) -> list[tuple[Axis, ...]]:
    """Return the ways to lay the taps in a kernel: as they are, and with symmetric padding."""
    plain = tuple(_axis(taps, i) for i in range(taps.rank))
    symmetric = tuple(_symmetric(a) for a in plain)
    return [plain] if symmetric == plain else [plain, symmetric]


def _axis(taps: TapMap, axis: int) -> Axis:
    offsets = sorted({o[axis] for o in taps.offsets})
    start = offsets[0]
    dilation = math.gcd(*(o - start for o in offsets)) or 1
    kernel = (offsets[-1] - start) // dilation + 1
    extent = dilation * (kernel - 1) + 1
    right = taps.slack[axis] + extent + start
    size, count, stride = taps.in_size[axis], taps.out_size[axis], taps.stride[axis]
    if isinstance(size, int) and isinstance(count, int):
        least = (count - 1) * stride - size + start + extent
        right = min(max(-start, least), least + stride - 1)
    return Axis(kernel, dilation, -start, right, start)


def _symmetric(axis: Axis) -> Axis:
    """Return the axis with zero taps added on the shorter side, where the dilation allows."""
    gap = axis.left - axis.right
    if gap == 0 or min(axis.left, axis.right) < 0 or gap % axis.dilation:
        return axis
    kernel = axis.kernel + abs(gap) // axis.dilation
    widest = max(axis.left, axis.right)
    return Axis(kernel, axis.dilation, widest, widest, -widest)


def _convolution(
    taps: TapMap, shift: Shift, axes: tuple[Axis, ...], entry: TensorType, exit_: TensorType
) -> list[Step]:
    steps, padding = [], [a.left for a in axes]
    if any(a.left != a.right or a.left < 0 for a in axes):
        pads = tuple(v for a in reversed(axes) for v in (a.left, a.right))
        sizes = [_grown(d, a.left + a.right) for d, a in zip(entry.shape[2:], axes, strict=True)]
        shape = (*entry.shape[:2], *sizes)
        steps.append(
            Step("aten.constant_pad_nd.default", {"self": PREVIOUS, "pad": pads, "value": 0.0}, shape)
        )
        padding = [0] * taps.rank
    operands = {
        "input": PREVIOUS,
        "weight": _kernel(taps, axes),
        "bias": shift,
        "stride": taps.stride,
        "padding": tuple(padding),
        "dilation": tuple(a.dilation for a in axes),
        "groups": taps.groups,
    }
    return [*steps, Step(f"aten.conv{taps.rank}d.default", operands, exit_.shape)]


def _grown(dim: Dim, by: int) -> Dim:
    if not isinstance(dim, int):
        raise Refusal("asymmetric padding of an axis whose size is only known at run time")
    return dim + by


def _kernel(taps: TapMap, axes: tuple[Axis, ...]) -> torch.Tensor:
    """Return the convolution weight, [Co, Ci/G, *kernel], zeros where there is no tap."""
    sizes = [a.kernel for a in axes]
    places = []
    for offset in taps.offsets:
        index = [(o - a.start) // a.dilation for o, a in zip(offset, axes, strict=True)]
        places.append(sum(i * math.prod(sizes[k + 1 :]) for k, i in enumerate(index)))
    flat = taps.weight.new_zeros(math.prod(sizes), *taps.weight.shape[1:])
    flat[places] = taps.weight
    weight = flat.reshape(len(flat), taps.channels_out, -1).permute(1, 2, 0)
    return weight.reshape(taps.channels_out, -1, *sizes)
