"""Resampling of images."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import Array
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.shapes import ints
from compiler.frontends.onnx.registry import op


@op("Upsample", host=(1,))
def upsample(call: Call, x: Tensor, scales: Array | None = None) -> Tensor:
    """Resize by factors, before version 10."""
    given = call.attr("scales") if scales is None else scales
    factors = [float(s) for s in given]
    sizes = [_scaled(d, s) for d, s in zip(x.shape, factors, strict=True)]
    for axis, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
        if factor != 1:
            settings = (call.attr("mode", "nearest"), "asymmetric", "floor", -0.75, False, False, 0.0)
            x = _resampled(x, axis, size, factor, settings, None)
    return x


@op("Resize", slots=True)
def resize(call: Call, x: Any, *inputs: Any) -> Tensor:
    """Resample axes one by one; the common settings are torch's own interpolation."""
    x, why = call.tensor(x), "the sizes of Resize must be known"
    roi, scales, sizes = _inputs(call, inputs, why)
    axes = [a % x.dim() for a in call.attr("axes", range(x.dim()))]
    found, factors = _sizes(call, x, axes, scales, sizes)
    settings = (
        call.attr("mode", "nearest"),
        call.attr("coordinate_transformation_mode", "half_pixel" if call.version >= 11 else "asymmetric"),
        call.attr("nearest_mode", "round_prefer_floor" if call.version >= 11 else "floor"),
        call.attr("cubic_coeff_a", -0.75),
        bool(call.attr("exclude_outside", 0)),
        bool(call.attr("antialias", 0)),
        call.attr("extrapolation_value", 0.0),
    )
    known = _interpolated(x, axes, found, factors, settings)
    if known is not None:
        return known
    for i, (axis, size, factor) in enumerate(zip(axes, found, factors, strict=True)):
        crop = None if roi is None else (float(roi[i]), float(roi[i + len(axes)]))
        if size != x.shape[axis] or factor != 1 or (crop is not None and settings[1] == "tf_crop_and_resize"):
            x = _resampled(x, axis, size, factor, settings, crop)
    return x  # type: ignore[no-any-return]


def _inputs(call: Call, inputs: tuple[Any, ...], why: str) -> tuple[Any, Any, Any]:
    arrays = [None if s is None else s.as_array(why) for s in inputs]
    arrays = [None if a is None or a.size == 0 else a for a in arrays]
    if call.version < 11:
        return None, arrays[0], None
    return tuple([*arrays, None, None, None][:3])  # type: ignore[return-value]


def _sizes(call: Call, x: Tensor, axes: list[int], scales: Any, sizes: Any) -> tuple[list[int], list[float]]:
    """Return the size and the factor of each axis."""
    dims = [x.shape[a] for a in axes]
    if sizes is None:
        factors = [float(s) for s in scales]
        return [_scaled(d, s) for d, s in zip(dims, factors, strict=True)], factors
    wanted = ints(sizes)
    ratios = [1.0 if w is d or w == d else w / d for w, d in zip(wanted, dims, strict=True)]
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        factor = min(ratios) if policy == "not_larger" else max(ratios)
        return [d if factor == 1 else math.floor(d * factor + 0.5) for d in dims], [factor] * len(dims)
    return wanted, ratios


def _scaled(size: Any, factor: float) -> Any:
    """Return a size times a factor, in the float32 that ONNX holds factors in."""
    return size if factor == 1 else math.floor(np.float32(size) * np.float32(factor))


def _interpolated(
    x: Tensor, axes: list[int], sizes: list[int], factors: list[float], settings: tuple[Any, ...]
) -> Tensor | None:
    """Return torch's interpolation where it computes the same, else None."""
    mode, coordinates, nearest, a, exclude, antialias, _ = settings
    rank = x.dim() - 2
    moved = [axis for axis, s in zip(axes, sizes, strict=True) if s != x.shape[axis]]
    if x.dim() not in (3, 4, 5) or any(axis < 2 for axis in moved) or exclude or antialias:
        return None
    by_axis = dict(zip(axes, zip(sizes, factors, strict=True), strict=True))
    target = [by_axis.get(i + 2, (x.shape[i + 2], 1.0)) for i in range(rank)]
    if any(f != 1 and abs(f - s / x.shape[i + 2]) > 1e-6 for i, (s, f) in enumerate(target)):
        return None
    size, whole = [s for s, _ in target], all(f == int(f) for _, f in target)
    if not x.is_floating_point():
        return None
    if mode == "nearest":
        plain = coordinates == "asymmetric" and nearest == "floor"
        # By whole factors the middle of a pixel is nearest to the same place.
        same = (
            coordinates == "half_pixel" and nearest in ("round_prefer_floor", "round_prefer_ceil") and whole
        )
        return F.interpolate(x, size, mode="nearest") if (plain or same) and whole else None
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners") or 1 in size:
        return None
    corners = coordinates == "align_corners"
    if mode == "linear":
        name = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
        return F.interpolate(x, size, mode=name, align_corners=corners)
    if mode == "cubic" and rank == 2 and a == -0.75:
        return F.interpolate(x, size, mode="bicubic", align_corners=corners)
    return None


def _resampled(
    x: Tensor,
    axis: int,
    size: int,
    factor: float,
    settings: tuple[Any, ...],
    crop: tuple[float, float] | None,
) -> Tensor:
    """Multiply one axis by the matrix of its interpolation."""
    count = x.shape[axis]
    matrix, outside = _matrix(count, size, factor, settings, crop)
    moved = x.movedim(axis, -1)
    if settings[0] == "nearest" and not outside.any():
        return moved.index_select(-1, torch.from_numpy(matrix.argmax(1))).movedim(-1, axis)
    dtype = x.dtype if x.is_floating_point() else torch.float32
    made = torch.matmul(moved.to(dtype), torch.from_numpy(matrix.T.copy()).to(dtype))
    if outside.any():
        fill = torch.full_like(made, settings[6])
        made = torch.where(torch.from_numpy(outside), fill, made)
    return made.movedim(-1, axis).to(x.dtype)


def _matrix(
    count: int, size: int, factor: float, settings: tuple[Any, ...], crop: tuple[float, float] | None
) -> tuple[Array, Array]:
    """Return the weights of `count` pixels in `size`, and which results lie outside the image."""
    mode, coordinates, nearest, a, exclude, antialias, _ = settings
    matrix = np.zeros((size, count))
    outside = np.zeros(size, dtype=bool)
    for i in range(size):
        at = _place(i, count, size, factor, coordinates, crop)
        if coordinates == "tf_crop_and_resize" and not 0 <= at <= count - 1:
            outside[i] = True
        if mode == "nearest":
            matrix[i, min(max(_nearest(at, nearest), 0), count - 1)] = 1
            continue
        for place, weight in _weights(at, mode, a, min(factor, 1.0) if antialias else 1.0, count, exclude):
            matrix[i, min(max(place, 0), count - 1)] += weight
    return matrix, outside


def _place(i: int, count: int, size: int, factor: float, how: str, crop: tuple[float, float] | None) -> float:
    if how == "align_corners":
        last = factor * count - 1  # of the size before it is rounded
        return 0.0 if size == 1 else i * (count - 1) / last
    if how == "asymmetric":
        return float(np.float32(i) / np.float32(factor))
    if how == "pytorch_half_pixel":
        return (i + 0.5) / factor - 0.5 if size > 1 else 0.0
    if how == "half_pixel_symmetric":
        adjust = size / (factor * count)
        centre = count / 2
        return centre * (1 - adjust) + (i + 0.5) / factor - 0.5
    if how == "tf_crop_and_resize":
        assert crop is not None
        start, end = crop
        if size == 1:
            return 0.5 * (start + end) * (count - 1)
        return start * (count - 1) + i * (end - start) * (count - 1) / (size - 1)
    if how == "half_pixel":
        return (i + 0.5) / factor - 0.5
    raise UnsupportedModelError(f"Resize with the coordinates {how!r}")


def _nearest(at: float, how: str) -> int:
    if how == "floor":
        return math.floor(at)
    if how == "ceil":
        return math.ceil(at)
    return math.ceil(at - 0.5) if how == "round_prefer_floor" else math.floor(at + 0.5)


def _weights(
    at: float, mode: str, a: float, scale: float, count: int, exclude: bool
) -> list[tuple[int, float]]:
    """Return the pixels around a place and their weights, the kernel stretched by 1 / scale."""
    reach = (1 if mode == "linear" else 2) / scale
    places = range(math.floor(at - reach) + 1, math.ceil(at + reach))
    run = _triangle if mode == "linear" else (lambda d: _cubic(d, a))
    found = [(p, run(abs(p - at) * scale)) for p in places]
    if exclude:
        found = [(p, w if 0 <= p < count else 0.0) for p, w in found]
    total = sum(w for _, w in found)
    return [(p, w / total) for p, w in found] if exclude or scale != 1 else found


def _triangle(distance: float) -> float:
    return max(0.0, 1 - distance)


def _cubic(d: float, a: float) -> float:
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0


@op("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Sample at places of a grid."""
    mode = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest"}.get(
        call.attr("mode", "linear"), "bicubic"
    )
    padding = call.attr("padding_mode", "zeros")
    if mode == "bicubic" and x.dim() != 4:
        raise UnsupportedModelError("cubic sampling over other than two axes")
    return F.grid_sample(x, grid, mode, padding, bool(call.attr("align_corners", 0)))


@op("AffineGrid", host=(1,))
def affine_grid(call: Call, theta: Tensor, size: Array) -> Tensor:
    """Return the grid that a matrix turns the image's own into."""
    return F.affine_grid(theta, ints(size), bool(call.attr("align_corners", 0)))


@op("RoiAlign")
def roi_align(call: Call, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Average or maximise samples in each cell of each region; regions take a known sampling ratio."""
    height, width = call.attr("output_height", 1), call.attr("output_width", 1)
    ratio = call.attr("sampling_ratio", 0)
    if not ratio:
        raise UnsupportedModelError("RoiAlign whose number of samples depends on the regions")
    default = "half_pixel" if call.version >= 16 else "output_half_pixel"  # there was no mode before
    shift = 0.5 if call.attr("coordinate_transformation_mode", default) == "half_pixel" else 0.0
    scale = call.attr("spatial_scale", 1.0)
    x0, y0, x1, y1 = (rois * scale - shift).unbind(-1)
    wide, high = x1 - x0, y1 - y0
    if shift == 0:
        wide, high = torch.clamp(wide, min=1.0), torch.clamp(high, min=1.0)
    ys = y0[:, None] + high[:, None] * ((torch.arange(height * ratio) + 0.5) / (height * ratio))
    xs = x0[:, None] + wide[:, None] * ((torch.arange(width * ratio) + 0.5) / (width * ratio))
    images = x.index_select(0, batch.to(torch.int64))
    maximum = call.attr("mode", "avg") == "max"
    samples = _bilinear(images, ys, xs, maximum)
    cells = samples.reshape(*samples.shape[:2], height, ratio, width, ratio)
    return cells.amax((3, 5)) if maximum else cells.mean((3, 5))


def _bilinear(images: Tensor, ys: Tensor, xs: Tensor, maximum: bool) -> Tensor:
    """Sample [R, C, H, W] at the places ys x xs of each region; outside the image counts as zero.

    With `maximum`, the largest of the four weighted neighbours stands for their sum, as ONNX has it.
    """
    height, width = images.shape[-2:]
    inside = ((ys >= -1) & (ys <= height))[:, :, None] & ((xs >= -1) & (xs <= width))[:, None, :]
    parts = []
    for ends in itertools.product((0, 1), repeat=2):
        (py, wy), (px, wx) = (
            _end(at, size, end) for at, size, end in zip((ys, xs), (height, width), ends, strict=True)
        )
        flat = (py[:, :, None] * width + px[:, None, :]).flatten(1)
        picked = images.flatten(2).gather(2, flat[:, None].expand(-1, images.shape[1], -1))
        parts.append(
            picked.reshape(*images.shape[:2], ys.shape[1], xs.shape[1])
            * (wy[:, :, None] * wx[:, None])[:, None]
        )
    total = torch.stack(parts).amax(0) if maximum else parts[0] + parts[1] + parts[2] + parts[3]
    return torch.where(inside[:, None], total, torch.zeros_like(total))


def _end(at: Tensor, size: int, end: int) -> tuple[Tensor, Tensor]:
    at = torch.clamp(at, 0, size - 1)
    low = torch.floor(at)
    place = torch.clamp(low + end, max=size - 1).to(torch.int64)
    return place, (at - low) if end else 1 - (at - low)


@op("DeformConv")
def deform_conv(
    call: Call,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve with taps moved by offsets, by sampling the image at each tap."""
    n, channels, height, width = x.shape
    outputs, _, kh, kw = weight.shape
    stride, dilation = call.attr("strides", [1, 1]), call.attr("dilations", [1, 1])
    pads, groups, sets = call.attr("pads", [0] * 4), call.attr("group", 1), call.attr("offset_group", 1)
    oh, ow = offset.shape[2:]
    moves = offset.reshape(n, sets, kh, kw, 2, oh, ow)
    ys = (torch.arange(oh) * stride[0] - pads[0])[:, None].to(x.dtype)
    xs = (torch.arange(ow) * stride[1] - pads[1])[None, :].to(x.dtype)
    images = x.reshape(n * sets, channels // sets, height, width)
    columns = []
    for i, j in itertools.product(range(kh), range(kw)):
        at_y = (ys + i * dilation[0] + moves[:, :, i, j, 0]).reshape(n * sets, oh, ow)
        at_x = (xs + j * dilation[1] + moves[:, :, i, j, 1]).reshape(n * sets, oh, ow)
        grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], -1)
        picked = F.grid_sample(images, grid, align_corners=False).reshape(n, sets, channels // sets, oh, ow)
        if mask is not None:
            picked = picked * mask.reshape(n, sets, kh, kw, oh, ow)[:, :, i, j][:, :, None]
        columns.append(picked.reshape(n, channels, oh, ow))
    stacked = torch.stack(columns, 2).reshape(n, groups, channels // groups * kh * kw, oh * ow)
    matrix = weight.reshape(groups, outputs // groups, -1)
    made = torch.matmul(matrix, stacked).reshape(n, outputs, oh, ow)
    return made if bias is None else made + bias[:, None, None]
