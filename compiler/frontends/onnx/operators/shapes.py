"""Operators that make, ask and change shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import Array
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.registry import op
from compiler.frontends.onnx.values import Slot


def ints(array: Any) -> list[Any]:
    """Return an array's elements as integers, symbolic ones as they are."""
    return [v if isinstance(v, torch.SymInt) else int(v) for v in np.asarray(array).reshape(-1)]


def axes_of(call: Call, given: Array | None, rank: int) -> list[int] | None:
    """Return the axes of an input or an attribute, none negative; None where none are given."""
    found = call.attr("axes") if given is None else ints(given)
    return None if found is None else [a % rank for a in found]


@op("Constant")
def constant(call: Call) -> Any:
    """Return the stored value."""
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        value = call.attr(name)
        if value is not None:
            kind = np.float32 if "float" in name else np.int64
            return value if isinstance(value, np.ndarray) else np.array(value, dtype=kind)
    raise UnsupportedModelError("a constant of strings or a sparse one")


@op("ConstantOfShape", host=(0,))
def constant_of_shape(call: Call, shape: Array) -> Tensor:
    """Fill a shape with one value."""
    value = call.attr("value", np.zeros(1, np.float32))
    made = torch.from_numpy(value.copy())
    dtype = call.floating if made.dtype == torch.float32 else made.dtype
    return torch.full(ints(shape), value.item(), dtype=dtype)


@op("Shape", slots=True)
def shape(call: Call, x: Any) -> Array:
    """Return the sizes, on the host."""
    found = list(call.tensor(x).shape)
    return _sizes(found[slice(call.attr("start", 0), call.attr("end"))])


@op("Size", slots=True)
def size(call: Call, x: Any) -> Array:
    """Return the number of elements, on the host."""
    found = math.prod(call.tensor(x).shape)
    return np.array(found, dtype=np.int64 if isinstance(found, int) else object)


def _sizes(found: list[Any]) -> Array:
    return np.array(found, dtype=np.int64 if all(isinstance(d, int) for d in found) else object)


@op("Reshape", host=(1,))
def reshape(call: Call, x: Tensor, to: Array | None = None) -> Tensor:
    """Give another shape; 0 keeps a size, unless `allowzero`."""
    sizes = ints(call.attr("shape") if to is None else to)
    if not call.attr("allowzero", 0):
        sizes = [x.shape[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(sizes)]
    return x.reshape(sizes)


@op("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """Make a matrix of the axes before `axis` and those from it on."""
    axis = call.attr("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("Squeeze", host=(1,))
def squeeze(call: Call, x: Tensor, axes: Array | None = None) -> Tensor:
    """Drop axes of one element."""
    found = axes_of(call, axes, x.dim())
    return x.squeeze() if found is None else x.squeeze(tuple(found))


@op("Unsqueeze", host=(1,))
def unsqueeze(call: Call, x: Tensor, axes: Array | None = None) -> Tensor:
    """Insert axes of one element, numbered in the result."""
    given = call.attr("axes") if axes is None else ints(axes)
    for axis in sorted(a % (x.dim() + len(given)) for a in given):
        x = x.unsqueeze(axis)
    return x


@op("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Permute the axes, reversed by default."""
    return x.permute(call.attr("perm", list(reversed(range(x.dim())))))


@op("Concat")
def concat(call: Call, *tensors: Tensor) -> Tensor:
    """Join along an axis."""
    return torch.cat(tensors, call.attr("axis", 1))


@op("Split", slots=True)
def split(call: Call, x: Any, sizes: Any = None) -> tuple[Tensor, ...]:
    """Cut along an axis, evenly by default."""
    x, axis = call.tensor(x), call.attr("axis", 0)
    given = call.attr("split") if sizes is None else ints(sizes.as_array("the parts of Split must be known"))
    if given is None:
        count = call.attr("num_outputs", len(call.step.proto.output))
        each = -(-x.shape[axis] // count)
        given = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return torch.split(x, given, axis)


@op("Slice", host=(1, 2, 3, 4))
def slice_(
    call: Call,
    x: Tensor,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Tensor:
    """Take every n-th element of a range, backwards where the step is negative."""
    first = ints(call.attr("starts") if starts is None else starts)
    last = ints(call.attr("ends") if ends is None else ends)
    given = axes_of(call, axes, x.dim())
    by = [1] * len(first) if steps is None else ints(steps)
    for start, end, axis, step in zip(first, last, given or range(len(first)), by, strict=True):
        x = _sliced(x, start, end, axis, step)
    return x


def _sliced(x: Tensor, start: Any, end: Any, axis: int, step: int) -> Tensor:
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, end, step),)]
    count = x.shape[axis]
    start = min(start + count if start < 0 else start, count - 1)
    end = max(end + count, -1) if end < 0 else end
    # Backwards from start is forwards from the mirrored place.
    mirrored = slice(count - 1 - start, max(count - 1 - end, 0), -step)
    return x.flip(axis)[(slice(None),) * axis + (mirrored,)]


@op("Expand", host=(1,))
def expand(call: Call, x: Tensor, to: Array) -> Tensor:
    """Broadcast with a shape, in both directions."""
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(ints(to))))  # type: ignore[no-untyped-call]


@op("Tile", host=(1,))
def tile(call: Call, x: Tensor, repeats: Array) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(ints(repeats))


@op("Range", slots=True)
def range_(call: Call, start: Any, limit: Any, delta: Any) -> Tensor:
    """Count from start by delta."""
    why = "the bounds of Range must be known"
    low, high, by = (s.as_array(why).item() for s in (start, limit, delta))
    dtype = torch.int64 if start.symbolic else call.tensor(start).dtype
    if isinstance(high - low, torch.SymInt):
        if by != 1:
            raise UnsupportedModelError("Range to a size only known at run time, by steps other than 1")
        return torch.arange(low, high, dtype=dtype)
    count = max(0, math.ceil((high - low) / by))
    result: Tensor = (torch.arange(count, dtype=dtype) * by + low).to(dtype)
    return result


@op("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Return ones on a diagonal, in the shape of a matrix."""
    code = call.attr("dtype")
    dtype = x.dtype if code is None else call.dtype(code)
    rows, columns = x.shape
    distance = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
    result: Tensor = (distance == call.attr("k", 0)).to(dtype)
    return result


@op("Trilu", slots=True)
def trilu(call: Call, x: Any, k: Any = None) -> Tensor:
    """Keep one triangle."""
    diagonal = 0 if k is None else int(k.as_array("the diagonal of Trilu must be known").item())
    run = torch.triu if call.attr("upper", 1) else torch.tril
    return run(call.tensor(x), diagonal)


@op("Pad", slots=True)
def pad(call: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    """Pad or crop each side by a constant, the edge, its reflection or the other side."""
    x = call.tensor(x)
    why = "the amounts of Pad must be known"
    amounts = ints(call.attr("pads", call.attr("paddings")) if pads is None else pads.as_array(why))
    chosen = list(range(x.dim())) if axes is None else [a % x.dim() for a in ints(axes.as_array(why))]
    sides = {axis: (amounts[i], amounts[i + len(chosen)]) for i, axis in enumerate(chosen)}
    mode = call.attr("mode", "constant")
    if mode != "constant":
        for axis, (left, right) in sides.items():
            x = _mirrored(x, axis, left, right, mode)
        return x  # type: ignore[no-any-return]
    fill = (
        call.attr("value", 0.0) if value is None else value.as_array("the value of Pad must be known").item()
    )
    flat = [p for axis in reversed(range(x.dim())) for p in sides.get(axis, (0, 0))]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    return (
        F.pad(x, flat, value=fill)
        if x.dtype != torch.bool
        else F.pad(x.to(torch.uint8), flat, value=fill) > 0
    )


def _mirrored(x: Tensor, axis: int, left: int, right: int, mode: str) -> Tensor:
    """Pad one axis by gathering places of the image."""
    if not left and not right:
        return x
    size = x.shape[axis]
    places = np.arange(-left, size + right)
    if mode == "edge":
        places = np.clip(places, 0, size - 1)
    elif mode == "wrap":
        places = places % size
    else:
        period = max(2 * (size - 1), 1)
        places = (size - 1) - np.abs((size - 1) - places % period)
    return x.index_select(axis, torch.from_numpy(places))


@op("CenterCropPad", host=(1,))
def center_crop_pad(call: Call, x: Tensor, to: Array) -> Tensor:
    """Crop or pad around the centre."""
    axes = [a % x.dim() for a in call.attr("axes", range(x.dim()))]
    for axis, wanted in zip(axes, ints(to), strict=True):
        size = x.shape[axis]
        if size > wanted:
            x = x.narrow(axis, (size - wanted) // 2, wanted)
        elif size < wanted:
            left = (wanted - size) // 2
            flat = [0, 0] * (x.dim() - 1 - axis) + [left, wanted - size - left]
            x = F.pad(x, flat)
    return x


@op("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Lay patches out as channels, the place in the patch before the channel (DCR) or behind it (CRD)."""
    n, c, h, w = x.shape
    b = call.attr("blocksize")
    if call.attr("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, b)
    parts = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b * b, h // b, w // b)


@op("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Lay channels out as patches, by place first (DCR) or by channel first (CRD)."""
    n, c, h, w = x.shape
    b = call.attr("blocksize")
    if call.attr("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    parts = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // (b * b), h * b, w * b)


@op("ReverseSequence", host=(1,))
def reverse_sequence(call: Call, x: Tensor, lengths: Array) -> Tensor:
    """Reverse the first elements along one axis, as many as another axis' entry says."""
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    parts = []
    for i, length in enumerate(ints(lengths)):
        row = x.select(batch, i)
        axis = time - (time > batch)
        head, tail = row.narrow(axis, 0, length), row.narrow(axis, length, row.shape[axis] - length)
        parts.append(torch.cat([head.flip(axis), tail], axis))
    return torch.stack(parts, batch)


def scalar(slot: Slot | None, why: str, default: Any = None) -> Any:
    """Return a known scalar."""
    return default if slot is None else slot.as_array(why).item()
