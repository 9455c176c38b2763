r"""The static shift: what an affine region adds, carried as a map over output positions.

    y[p] = sum_o A_o x[s p + o] + t[p]

A shift is `None` (zero), `[C]` (the same at every position) or `[C, *out]` (a map). In front of a
zero-padded operation a uniform shift becomes position dependent: border outputs miss some of it
(`merges.md` 1.5). Pushed through the same taps, the map is either constant again, and collapses into
a bias, or the region is refused here.
"""

from __future__ import annotations

import torch

from compiler.merge.attempt import Refusal
from compiler.merge.tap_map import TapMap

Shift = torch.Tensor | None

# A map counts as constant when its spread is the rounding of float64 sums.
_ROUNDING = 1e-12


def push(taps: TapMap, shift: Shift) -> Shift:
    """Return the shift after a map: the map applied to the shift, extended by zeros."""
    if shift is None:
        return None
    if shift.device.type == "meta":
        return torch.empty(taps.channels_out, dtype=torch.float64, device="meta")
    if shift.dim() > 1:
        return collapsed(_push_map(taps, shift))
    if taps.pointwise:
        return _columns(taps, shift)[0]
    return _push_uniform(taps, shift)


def plus(a: Shift, b: Shift, factor: float = 1.0) -> Shift:
    """Return `a + factor b`."""
    if b is None:
        return a
    b = b * factor
    if a is None:
        return b
    rank = max(a.dim(), b.dim())
    aligned = [t.reshape(*t.shape, *(1,) * (rank - t.dim())) if t.dim() == 1 else t for t in (a, b)]
    return collapsed(aligned[0] + aligned[1]) if rank > 1 else a + b


def collapsed(shift: torch.Tensor) -> torch.Tensor:
    """Return a map as `[C]` where it is constant over positions, else as it is."""
    if shift.dim() == 1:
        return shift
    flat = shift.flatten(1)
    spread = (flat.amax(1) - flat.amin(1)).abs().max()
    return flat.mean(1) if spread <= _ROUNDING * flat.abs().max() else shift


def uniform(shift: Shift) -> Shift:
    """Return the shift as a bias; raises Refusal where it depends on the position."""
    if shift is not None and shift.dim() > 1:
        raise Refusal(
            "shift before zero fill: a bias or BatchNorm shift in front of a zero-padded operation reaches "
            "border outputs only in part, so it is no bias of the merged operation"
        )
    return shift


def _columns(taps: TapMap, shift: torch.Tensor) -> torch.Tensor:
    """Return `A_o t` for each tap, [T, Co]."""
    parts = shift.reshape(1, taps.groups, -1, 1)
    return torch.matmul(taps.weight, parts).flatten(1)


def _push_uniform(taps: TapMap, shift: torch.Tensor) -> torch.Tensor:
    inside = [_inside(taps, axis) for axis in range(taps.rank)]
    columns = _columns(taps, shift)
    if all(bool(i.all()) for i in inside):
        return columns.sum(0)
    whole = columns
    for axis_inside in inside:
        whole = whole.reshape(*whole.shape, 1) * axis_inside.reshape(
            len(taps.offsets), 1, *(1,) * (whole.dim() - 2), -1
        )
    return collapsed(whole.sum(0))


def _inside(taps: TapMap, axis: int) -> torch.Tensor:
    """Return, [T, out], whether each tap's read falls inside the input on one axis."""
    size, count = taps.in_size[axis], taps.out_size[axis]
    offsets = torch.tensor([o[axis] for o in taps.offsets])[:, None]
    if not isinstance(size, int) or not isinstance(count, int):
        reaches_out = bool((offsets < 0).any()) or bool((offsets + taps.slack[axis] >= 0).any())
        if reaches_out:
            raise Refusal(f"a shift meets zero padding on axis {axis}, whose size is only known at run time")
        return torch.ones(len(offsets), 1, dtype=torch.float64)
    reads = taps.stride[axis] * torch.arange(count)[None, :] + offsets
    return ((reads >= 0) & (reads < size)).double()


def _push_map(taps: TapMap, shift: torch.Tensor) -> torch.Tensor:
    sizes = [int(d) for d in taps.out_size if isinstance(d, int)]
    if len(sizes) != taps.rank:
        raise Refusal("a position-dependent shift needs static sizes")
    total = torch.zeros(taps.channels_out, *sizes, dtype=torch.float64)
    for offset, weight in zip(taps.offsets, taps.weight, strict=True):
        total += _apply(weight, _gather(taps, shift, offset))
    return total


def _gather(taps: TapMap, shift: torch.Tensor, offset: tuple[int, ...]) -> torch.Tensor:
    """Return `t[s p + o]` with zeros outside, [Ci, *out]."""
    result = shift
    for axis in range(taps.rank):
        size, count = shift.shape[axis + 1], taps.out_size[axis]
        assert isinstance(count, int)
        index = taps.stride[axis] * torch.arange(count) + offset[axis]
        valid = ((index >= 0) & (index < size)).double()
        result = result.index_select(axis + 1, index.clamp(0, size - 1))
        result = result * valid.reshape(-1, *(1,) * (taps.rank - 1 - axis))
    return result


def _apply(weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Apply one tap's block-diagonal matrix [G, Co/G, Ci/G] to [Ci, *out]."""
    groups = weight.shape[0]
    spread = values.reshape(groups, weight.shape[2], -1)
    return torch.matmul(weight, spread).reshape(-1, *values.shape[1:])
