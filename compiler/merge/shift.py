r"""The static shift: what an affine region adds, carried as a map over output positions.

    y[p] = sum_o A_o x[s p + o] + t[p]

A shift is `None` (zero), `[C]` (the same at every position) or `[C, *out]` (a map). In front of a
zero-padded operation a uniform shift becomes position dependent: border outputs miss some of it
(`merges.md` 1.5). Pushed through the same taps, the map is either constant again, and collapses into
a bias, or `border` finds the constant `c` that the input would have to be padded with:

    t[p] = b + sum_{o outside at p} A_o c

from which emission builds its ways out of a zero fill.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.merge.attempt import Refusal
from compiler.merge.blocks import regrouped
from compiler.merge.tap_map import ZEROS, TapMap

Shift = torch.Tensor | None

# A map counts as constant when its spread is the rounding of float64 sums.
_ROUNDING = 1e-12


def push(taps: TapMap, shift: Shift) -> Shift:
    """Return the shift after a map: the map applied to the shift, extended as the map extends."""
    if shift is None:
        return None
    if shift.device.type == "meta":
        sizes = _static(taps) if shift.dim() > 1 else []
        return torch.empty(taps.channels_out, *sizes, dtype=torch.float64, device="meta")
    if shift.dim() > 1:
        return collapsed(_push_map(taps, shift))
    if taps.pointwise:
        return _columns(taps, shift)[0]
    return _push_uniform(taps, shift)


def times(shift: Shift, scale: torch.Tensor) -> Shift:
    """Return the shift with each channel scaled, `scale` [C]."""
    if shift is None:
        return None
    return shift * scale.reshape(-1, *(1,) * (shift.dim() - 1))


def broadcast(shifts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return shifts as maps of one size where one of them is a map."""
    size = next((s.shape[1:] for s in shifts if s.dim() > 1), None)
    if size is None:
        return list(shifts)
    return [s if s.dim() > 1 else s.reshape(-1, *(1,) * len(size)).expand(-1, *size) for s in shifts]


def plus(a: Shift, b: Shift, factor: float = 1.0) -> Shift:
    """Return `a + factor b`."""
    if b is None:
        return a
    b = b * factor
    if a is None:
        return b
    a, b = broadcast([a, b])
    return collapsed(a + b)


def collapsed(shift: torch.Tensor) -> torch.Tensor:
    """Return a map as `[C]` where it is constant over positions, else as it is."""
    if shift.dim() == 1 or shift.device.type == "meta":
        return shift
    flat = shift.flatten(1)
    spread = (flat.amax(1) - flat.amin(1)).abs().max()
    return flat.mean(1) if spread <= _ROUNDING * flat.abs().max() else shift


def border(taps: TapMap, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return (c [Ci], b [Co]) with `t[p] = b + sum_{o outside at p} A_o c`, or None where none exists.

    `shift` is a map [Co, *out]. The equations of all distinct borders are solved in the least squares
    sense, and hold or do not.
    """
    inside = _inside_everywhere(taps)
    pattern, index = torch.unique(inside.flatten(1).T, dim=0, return_inverse=True)
    flat = shift.flatten(1)
    first = torch.stack([(index == i).nonzero()[0, 0] for i in range(len(pattern))])
    if not torch.allclose(
        flat, flat[:, first][:, index], rtol=1e-12, atol=_ROUNDING * float(flat.abs().max())
    ):
        return None  # it differs where the border is the same
    # Blocks that read different inputs are systems of their own: a depthwise one has two unknowns a channel.
    apart = len(set(taps.blocks.source)) == len(taps.blocks.source)
    matrix = taps.blocks if apart else regrouped(taps.blocks, 1)
    groups, rows, columns = matrix.weight.shape[1:]
    missing = torch.einsum("pt,tgoi->gpoi", 1 - pattern, matrix.weight)
    bias = torch.eye(rows, dtype=torch.float64).expand(groups, len(pattern), rows, rows)
    system = torch.cat([missing, bias], 3).flatten(1, 2)
    wanted = flat[:, first].reshape(groups, rows, -1).transpose(1, 2).reshape(groups, -1, 1)
    found = torch.linalg.lstsq(system, wanted, driver="gelsd").solution
    if float((system @ found - wanted).abs().max()) > 1e-12 * float(wanted.abs().max()):
        return None
    outside = torch.zeros(matrix.columns // columns, columns, dtype=torch.float64)
    outside[list(matrix.source)] = found[:, :columns, 0]
    return outside.flatten(), found[:, columns:, 0].flatten()


def constant_response(taps: TapMap, values: torch.Tensor) -> torch.Tensor:
    """Return `sum_o A_o c`, [Co]: what the map gives for `c` everywhere."""
    return _columns(taps, values).sum(0)


def _inside_everywhere(taps: TapMap) -> torch.Tensor:
    """Return, [T, *out], whether each tap's read falls inside the input."""
    whole = torch.ones(len(taps.offsets), *(1,) * taps.rank, dtype=torch.float64)
    for axis in range(taps.rank):
        shape = [len(taps.offsets), *(1,) * taps.rank]
        inside = _inside(taps, axis)
        shape[axis + 1] = inside.shape[1]
        whole = whole * inside.reshape(shape)
    return whole


def _columns(taps: TapMap, shift: torch.Tensor) -> torch.Tensor:
    """Return `A_o t` for each tap, [T, Co]."""
    matrix = taps.blocks
    parts = shift.reshape(-1, matrix.weight.shape[3])[list(matrix.source)]
    return torch.matmul(matrix.weight, parts[None, :, :, None]).flatten(1)


def _push_uniform(taps: TapMap, shift: torch.Tensor) -> torch.Tensor:
    columns = _columns(taps, shift)
    if all(bool(_inside(taps, axis).all()) for axis in range(taps.rank)):
        return columns.sum(0)
    return collapsed(torch.einsum("tc,t...->c...", columns, _inside_everywhere(taps)))


def _inside(taps: TapMap, axis: int) -> torch.Tensor:
    """Return, [T, out], whether each tap's read meets a value of the input, on one axis."""
    size, count, up = taps.in_size[axis], taps.out_size[axis], taps.up[axis]
    offsets = torch.tensor([o[axis] for o in taps.offsets])[:, None]
    if taps.edge[axis] != ZEROS:
        return torch.ones(len(offsets), count if isinstance(count, int) else 1, dtype=torch.float64)
    if not isinstance(size, int) or not isinstance(count, int):
        reaches_out = bool((offsets < 0).any()) or bool((offsets + taps.slack[axis] >= 0).any())
        if reaches_out or up != 1:
            raise Refusal(f"a shift meets zero padding on axis {axis}, whose size is only known at run time")
        return torch.ones(len(offsets), 1, dtype=torch.float64)
    reads = taps.stride[axis] * torch.arange(count)[None, :] + offsets
    return ((reads >= 0) & (reads < size * up) & (reads % up == 0)).double()


def _static(taps: TapMap) -> list[int]:
    sizes = [d for d in taps.out_size if isinstance(d, int)]
    if len(sizes) != taps.rank:
        raise Refusal("a position-dependent shift needs static sizes")
    return sizes


def _push_map(taps: TapMap, shift: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(taps.channels_out, *_static(taps), dtype=torch.float64)
    for index, offset in enumerate(taps.offsets):
        total += _apply(taps, index, _gather(taps, shift, offset))
    return total


def _gather(taps: TapMap, shift: torch.Tensor, offset: tuple[int, ...]) -> torch.Tensor:
    """Return `t[s p + o]` with zeros outside, [Ci, *out]."""
    if any(e != ZEROS for e in taps.edge):
        raise Refusal("a position-dependent shift meets padding by the image itself")
    result = shift
    for axis in range(taps.rank):
        size, count, up = shift.shape[axis + 1], taps.out_size[axis], taps.up[axis]
        assert isinstance(count, int)
        index = taps.stride[axis] * torch.arange(count) + offset[axis]
        valid = ((index >= 0) & (index < size * up) & (index % up == 0)).double()
        result = result.index_select(axis + 1, (index // up).clamp(0, size - 1))
        result = result * valid.reshape(-1, *(1,) * (taps.rank - 1 - axis))
    return result


def _apply(taps: TapMap, index: int, values: torch.Tensor) -> torch.Tensor:
    """Apply one tap's matrix to [Ci, *out]."""
    matrix = taps.blocks
    spread = values.reshape(-1, matrix.weight.shape[3], values[0].numel())[list(matrix.source)]
    return torch.matmul(matrix.weight[index], spread).reshape(-1, *values.shape[1:])
