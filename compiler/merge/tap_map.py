r"""The canonical form of an affine spatial operation: a tap map (`merges.md` 1.1).

    y[p] = sum_o A_o x[s p + o],     p = 0 .. out-1 on each spatial axis

where `x` is extended by zeros, `o` runs over integer offsets, `A_o` is a matrix (Co x Ci), block
diagonal in G groups, and `s` the stride. The form is closed under

- sum (1.2): union of offsets, add matrices; equal stride and output size;
- composition (1.3): `(A, s1)` then `(B, s2)` has taps `o1 + s1 o2` with `B_o2 A_o1`, stride
  `s1 s2`. It is exact iff the positions of the middle tensor that the second map reads outside it
  (zeros) are zeros under the first map too (1.4): every tap of the first map there must fall
  outside the input.

Output size is `floor((in + slack) / s) + 1` with `slack = pad_left + pad_right - extent + 1 - 1`,
kept so that symbolic sizes work: slack of a composition is `slack1 + s1 (1 + slack2)`.
Rank 0 (no spatial axes) is a plain matrix: a linear layer. Weights are float64, or on the meta
device when only geometry and price are wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch

from compiler.ir.graph import Dim
from compiler.merge.attempt import Refusal

Offset = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TapMap:
    """Taps `offsets[t]` with matrices `weight[t]`, shape [T, G, Co/G, Ci/G]."""

    offsets: tuple[Offset, ...]
    weight: torch.Tensor
    stride: tuple[int, ...]
    slack: tuple[int, ...]
    in_size: tuple[Dim, ...]
    out_size: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)

    @property
    def groups(self) -> int:
        """The number of blocks on the diagonal."""
        return self.weight.shape[1]

    @property
    def channels_out(self) -> int:
        """The number of output channels, Co."""
        return self.weight.shape[1] * self.weight.shape[2]

    @property
    def channels_in(self) -> int:
        """The number of input channels, Ci."""
        return self.weight.shape[1] * self.weight.shape[3]

    @property
    def pointwise(self) -> bool:
        """Whether each output position reads its own input position only."""
        zero = (0,) * self.rank
        return self.offsets == (zero,) and all(s == 1 for s in self.stride) and self.in_size == self.out_size

    @property
    def diagonal(self) -> bool:
        """Whether each output channel reads its own input channel only."""
        return self.weight.shape[2] == self.weight.shape[3] == 1


def identity(channels: int, size: tuple[Dim, ...], device: str = "cpu") -> TapMap:
    """Return the map `y = x`."""
    rank = len(size)
    weight = torch.ones(1, channels, 1, 1, dtype=torch.float64, device=device)
    return TapMap(((0,) * rank,), weight, (1,) * rank, (-1,) * rank, size, size)


def diagonal(scale: torch.Tensor, size: tuple[Dim, ...]) -> TapMap:
    """Return the per-channel scaling `y_c = scale_c x_c`; `scale` has shape [C]."""
    base = identity(scale.shape[0], size)
    return replace_weight(base, scale.reshape(1, -1, 1, 1))


def replace_weight(taps: TapMap, weight: torch.Tensor) -> TapMap:
    """Return the map with other matrices on the same taps."""
    return TapMap(taps.offsets, weight, taps.stride, taps.slack, taps.in_size, taps.out_size)


def scaled(taps: TapMap, factor: float) -> TapMap:
    """Return `factor` times the map."""
    return taps if factor == 1 else replace_weight(taps, taps.weight * factor)


def add(a: TapMap, b: TapMap) -> TapMap:
    """Return the sum of two maps of one input; raises Refusal where their geometry differs."""
    if a.stride != b.stride or a.out_size != b.out_size:
        raise Refusal(
            f"branches differ in geometry: stride {a.stride} and output {_sizes(a)}, "
            f"stride {b.stride} and {_sizes(b)}"
        )
    groups = math.gcd(a.groups, b.groups)
    a, b = regrouped(a, groups), regrouped(b, groups)
    offsets = tuple(sorted({*a.offsets, *b.offsets}))
    place = {o: i for i, o in enumerate(offsets)}
    weight = torch.zeros(len(offsets), *a.weight.shape[1:], dtype=torch.float64, device=a.weight.device)
    for part in (a, b):
        weight[[place[o] for o in part.offsets]] += part.weight
    return TapMap(offsets, weight, a.stride, a.slack, a.in_size, a.out_size)


def compose(first: TapMap, second: TapMap) -> TapMap:
    """Return `second(first(x))`; raises Refusal where zero padding makes it differ (1.4)."""
    for axis in range(first.rank):
        _check_padding(first, second, axis)
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    slack = tuple(
        s1 + s * (1 + s2) for s1, s, s2 in zip(first.slack, first.stride, second.slack, strict=True)
    )
    offsets, weight = _products(first, second)
    return TapMap(offsets, weight, stride, slack, first.in_size, second.out_size)


def regrouped(taps: TapMap, groups: int) -> TapMap:
    """Return the map with coarser blocks: each new block holds `G / groups` old ones, zeros between."""
    if taps.groups == groups:
        return taps
    count, old, rows, columns = taps.weight.shape
    factor = old // groups
    weight = taps.weight.new_zeros(count, groups, factor, rows, factor, columns)
    blocks = taps.weight.reshape(count, groups, factor, rows, columns)
    index = torch.arange(factor, device=weight.device)
    weight[:, :, index, :, index, :] = blocks.permute(2, 0, 1, 3, 4)
    return replace_weight(taps, weight.reshape(count, groups, factor * rows, factor * columns))


def _products(first: TapMap, second: TapMap) -> tuple[tuple[Offset, ...], torch.Tensor]:
    """Return the Minkowski sum of taps with the products of their matrices."""
    sums = [
        tuple(o1 + s * o2 for o1, s, o2 in zip(a, first.stride, b, strict=True))
        for b, a in product(second.offsets, first.offsets)
    ]
    offsets = tuple(sorted(set(sums)))
    place = {o: i for i, o in enumerate(offsets)}
    terms = _matrix_products(first, second).flatten(0, 1)
    weight = terms.new_zeros(len(offsets), *terms.shape[1:])
    weight.index_add_(0, torch.tensor([place[o] for o in sums], device=terms.device), terms)
    return offsets, weight


def _matrix_products(first: TapMap, second: TapMap) -> torch.Tensor:
    """Return `B_t2 A_t1` for all pairs, [T2, T1, G, Co/G, Ci/G]; a diagonal factor only scales."""
    a, b = first.weight, second.weight
    if second.diagonal:
        scale = b.reshape(len(b), 1, *a.shape[1:3], 1)
        return scale * a[None]
    if first.diagonal:
        scale = a.reshape(1, len(a), b.shape[1], 1, b.shape[3])
        return b[:, None] * scale
    groups = math.gcd(first.groups, second.groups)
    a, b = regrouped(first, groups).weight, regrouped(second, groups).weight
    return torch.matmul(b[:, None], a[None])


def _check_padding(first: TapMap, second: TapMap, axis: int) -> None:
    """Raise unless each middle position read outside the middle tensor is zero under `first` too."""
    reads = sorted({o[axis] for o in second.offsets})
    taps = sorted({o[axis] for o in first.offsets})
    size, middle = first.in_size[axis], first.out_size[axis]
    count = second.out_size[axis]
    if isinstance(size, int) and isinstance(middle, int) and isinstance(count, int):
        sites = _outside(reads, second.stride[axis], count, middle)
        bad = any(0 <= first.stride[axis] * q + o < size for q in sites for o in taps)
    else:
        bad = (reads[0] < 0 and taps[-1] - first.stride[axis] >= 0) or (
            second.slack[axis] + reads[-1] >= 0 and first.slack[axis] + 1 + taps[0] < 0
        )
    if bad:
        raise Refusal(
            f"padding: the second operation pads axis {axis} with zeros where the merged kernel would read "
            f"real input ({len(taps)} taps reach over the edge); equal in the interior only"
        )


def _outside(reads: list[int], stride: int, count: int, size: int) -> list[int]:
    return sorted({stride * p + o for o in reads for p in _edge(o, stride, count, size)})


def _edge(offset: int, stride: int, count: int, size: int) -> range | list[int]:
    """Return the output positions whose read at `offset` falls outside `0 .. size-1`."""
    low = range(min(count, max(0, -(offset // stride))))
    first_high = max(0, -((offset - size) // stride))
    return [*low, *range(first_high, count)]


def _sizes(taps: TapMap) -> str:
    return "x".join(map(str, taps.out_size)) or "scalar"
