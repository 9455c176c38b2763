r"""The canonical form of an affine spatial operation: a tap map (`merges.md` 1.1).

    y[p] = sum_o A_o x[s p + o],     p = 0 .. out-1 on each spatial axis

where `o` runs over integer offsets, `A_o` is a matrix (Co x Ci) and `s` the stride. Outside its size `x`
is extended by `edge`: zeros, or its own values reflected, replicated or repeated. `up` inserts `up - 1`
zeros between the positions of `x` first: a transposed convolution. The form is closed under

- sum (1.2): union of offsets, add matrices; equal stride, output size and edge;
- composition (1.3): `(A, s1)` then `(B, s2)` has taps `o1 + s1 o2` with `B_o2 A_o1`, stride
  `s1 s2`. It is exact iff the positions of the middle tensor that the second map reads outside it
  (zeros) are zeros under the first map too (1.4): every tap of the first map there must fall
  outside the input.

Matrices are sparse by blocks (`blocks`): G groups of rows, each reading one block of input channels.
Output size is `floor((in + slack) / s) + 1` with `slack = pad_left + pad_right - extent`,
kept so that symbolic sizes work: slack of a composition is `slack1 + s1 (1 + slack2)`.
Without spatial axes a map is a plain matrix. Weights are float64, or on the meta device when only
geometry and price are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch

from compiler.ir.graph import Dim
from compiler.merge import blocks
from compiler.merge.attempt import Refusal
from compiler.merge.blocks import Blocks

Offset = tuple[int, ...]
ZEROS = "zeros"


@dataclass(frozen=True, eq=False)
class TapMap:
    """Taps `offsets[t]` with the matrices `blocks.weight[t]`."""

    offsets: tuple[Offset, ...]
    blocks: Blocks
    stride: tuple[int, ...]
    slack: tuple[int, ...]
    in_size: tuple[Dim, ...]
    out_size: tuple[Dim, ...]
    edge: tuple[str, ...]
    up: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)

    @property
    def weight(self) -> torch.Tensor:
        """The matrices, [T, G, Co/G, columns]."""
        return self.blocks.weight

    @property
    def channels_out(self) -> int:
        """The number of output channels, Co."""
        return self.blocks.rows

    @property
    def channels_in(self) -> int:
        """The number of input channels, Ci."""
        return self.blocks.columns

    @property
    def pointwise(self) -> bool:
        """Whether each output position reads its own input position only."""
        zero = (0,) * self.rank
        still = all(s == 1 for s in (*self.stride, *self.up))
        return self.offsets == (zero,) and still and self.in_size == self.out_size

    @property
    def diagonal(self) -> bool:
        """Whether each output channel reads its own input channel only."""
        return self.blocks.diagonal

    @property
    def real(self) -> bool:
        """Whether the matrices have values: they are not on the meta device."""
        return self.weight.device.type != "meta"


def plain(
    offsets: tuple[Offset, ...],
    matrices: Blocks,
    stride: tuple[int, ...],
    slack: tuple[int, ...],
    in_size: tuple[Dim, ...],
    out_size: tuple[Dim, ...],
) -> TapMap:
    """Return a map that is extended by zeros and not transposed, its taps in order."""
    rank = len(stride)
    order = sorted(range(len(offsets)), key=lambda i: offsets[i])
    if order != list(range(len(offsets))):
        matrices = matrices.with_weight(matrices.weight[order])
        offsets = tuple(offsets[i] for i in order)
    return TapMap(offsets, matrices, stride, slack, in_size, out_size, (ZEROS,) * rank, (1,) * rank)


def pointwise(matrices: Blocks, size: tuple[Dim, ...]) -> TapMap:
    """Return the map of one matrix at every position."""
    rank = len(size)
    return plain(((0,) * rank,), matrices, (1,) * rank, (-1,) * rank, size, size)


def identity(channels: int, size: tuple[Dim, ...], device: str = "cpu") -> TapMap:
    """Return the map `y = x`."""
    return pointwise(blocks.diagonal(torch.ones(channels, dtype=torch.float64, device=device)), size)


def scaled(taps: TapMap, factor: float) -> TapMap:
    """Return `factor` times the map."""
    return taps if factor == 1 else with_blocks(taps, taps.blocks.with_weight(taps.weight * factor))


def with_blocks(taps: TapMap, matrices: Blocks) -> TapMap:
    """Return the map with other matrices on the same taps."""
    return replace(taps, blocks=matrices)


def rows(taps: TapMap, index: torch.Tensor) -> TapMap:
    """Return the map of the output channels `index`, [C']."""
    return with_blocks(taps, blocks.rows(taps.blocks, index))


def stack(parts: list[TapMap]) -> TapMap:
    """Return the map whose output channels are those of all parts in order."""
    spread, first = _on_common_taps(parts)
    return with_blocks(first, blocks.stack(spread))


def add(a: TapMap, b: TapMap) -> TapMap:
    """Return the sum of two maps of one input; raises Refusal where their geometry differs."""
    spread, first = _on_common_taps([a, b])
    return with_blocks(first, blocks.add(*spread))


def _on_common_taps(parts: list[TapMap]) -> tuple[list[Blocks], TapMap]:
    """Return the parts' matrices on the union of their taps, and the geometry they share."""
    first = parts[0]
    for other in parts[1:]:
        first = replace(first, edge=_common_edge(first, other))
    offsets = tuple(sorted({o for p in parts for o in p.offsets}))
    place = {o: i for i, o in enumerate(offsets)}
    spread = []
    for part in parts:
        if part.offsets == offsets:
            spread.append(part.blocks)
            continue
        weight = part.weight.new_zeros(len(offsets), *part.weight.shape[1:])
        weight[[place[o] for o in part.offsets]] = part.weight
        spread.append(part.blocks.with_weight(weight))
    return spread, replace(first, offsets=offsets)


def _common_edge(a: TapMap, b: TapMap) -> tuple[str, ...]:
    if a.stride != b.stride or a.out_size != b.out_size or a.up != b.up or a.in_size != b.in_size:
        raise Refusal(
            f"branches differ in geometry: stride {a.stride} and output {_sizes(a)}, "
            f"stride {b.stride} and {_sizes(b)}"
        )
    edges = []
    for axis in range(a.rank):
        outside = [t.edge[axis] for t in (a, b) if reaches_out(t, axis)]
        if len(set(outside)) > 1:
            raise Refusal(f"branches pad axis {axis} differently: {' and '.join(outside)}")
        edges.append(outside[0] if outside else ZEROS)
    return tuple(edges)


def compose(first: TapMap, second: TapMap) -> TapMap:
    """Return `second(first(x))`; raises Refusal where padding makes it differ (1.4)."""
    if any(u != 1 for u in (*first.up, *second.up)) and not (first.pointwise or second.pointwise):
        raise Refusal("a transposed convolution has a common form with operations at one position only")
    edge = tuple(_padded(first, second, axis) for axis in range(first.rank))
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    slack = tuple(
        s1 + s * (1 + s2) for s1, s, s2 in zip(first.slack, first.stride, second.slack, strict=True)
    )
    up = tuple(a * b for a, b in zip(first.up, second.up, strict=True))
    offsets, matrices = _products(first, second)
    return TapMap(offsets, matrices, stride, slack, first.in_size, second.out_size, edge, up)


def _products(first: TapMap, second: TapMap) -> tuple[tuple[Offset, ...], Blocks]:
    """Return the Minkowski sum of taps with the products of their matrices."""
    sums = [
        tuple(o1 + s * o2 for o1, s, o2 in zip(a, first.stride, b, strict=True))
        for b, a in product(second.offsets, first.offsets)
    ]
    offsets = tuple(sorted(set(sums)))
    place = {o: i for i, o in enumerate(offsets)}
    terms = blocks.product(second.blocks, first.blocks)
    if len(sums) == 1:
        return offsets, terms
    weight = terms.weight.new_zeros(len(offsets), *terms.weight.shape[1:])
    weight.index_add_(0, torch.tensor([place[o] for o in sums], device=weight.device), terms.weight)
    return offsets, terms.with_weight(weight)


def reaches_out(taps: TapMap, axis: int) -> bool:
    """Tell whether some output position reads outside the input on an axis."""
    reads = [o[axis] for o in taps.offsets]
    size, count, stride = taps.in_size[axis], taps.out_size[axis], taps.stride[axis]
    if isinstance(size, int) and isinstance(count, int):
        return min(reads) < 0 or stride * (count - 1) + max(reads) >= size * taps.up[axis]
    return min(reads) < 0 or taps.slack[axis] + max(reads) >= 0


def _padded(first: TapMap, second: TapMap, axis: int) -> str:
    """Return the edge of a composition; raises Refusal where reads outside the middle tensor differ."""
    if not reaches_out(second, axis):
        return first.edge[axis]
    still = {o[axis] for o in first.offsets} == {0} and first.stride[axis] == 1
    if still and first.in_size[axis] == first.out_size[axis] and first.up[axis] == 1:
        return second.edge[axis]
    if second.edge[axis] != ZEROS or (first.edge[axis] != ZEROS and reaches_out(first, axis)):
        raise Refusal(
            f"padding: the second operation pads axis {axis} with {second.edge[axis]} what the first has "
            "mixed from several positions; equal in the interior only"
        )
    _check_zeros(first, second, axis)
    return ZEROS


def _check_zeros(first: TapMap, second: TapMap, axis: int) -> None:
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
