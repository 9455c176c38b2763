r"""The algebra run backwards: one tap map as a sum of smaller ones, or of products of thinner ones.

A runtime's kernels have cliffs: XNNPACK has no depthwise kernel above 25 taps, so that a 7x7 there
costs more than the sum of its parts. Which form is cheapest is the price's to say; the forms are

- *parity classes* (1.2 read from right to left). The taps `o = start + g a`, `g` the step of the
  kernel, fall in classes by `a mod m` on each axis. A class is again a kernel, of step `g m` and
  `ceil(K / m)` taps: a convolution of dilation `g m`. Seven taps modulo 2 are `-3 -1 1 3` and
  `-2 0 2`, each symmetric, so that no part of a centred odd kernel needs a pad in front.
- *windows*. The taps fall in the tiles of a grid, each a dense kernel of its own padding.
- *exact low rank* of a depthwise map (1.3, 1.4). A kernel per channel `K_c = sum_r u_r v_r^T` is a
  sum of `K x 1` maps, each followed by a `1 x K` map. One axis is not touched by the first, the other
  not by the second, and there is no bias between, so that padding never stands in the way.

Parts keep stride, slack and sizes of the whole: the slack belongs to the output size, not to the
kernel. Sums are geometry, so weights on the meta device will do; ranks need real ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch

from compiler.ir.graph import Dim
from compiler.merge.blocks import Blocks, grouped
from compiler.merge.tap_map import ZEROS, Offset, TapMap

LIMIT = 25  # taps of the largest depthwise microkernel of XNNPACK
MODULI = (2, 3, 4)
EXACT = 1e-12  # a singular value below this share of its kernel's largest is rounding

Sum = tuple[TapMap, ...]
Pair = tuple[TapMap, TapMap]


@dataclass(frozen=True)
class Grid:
    """The kernel that taps lie in: first offset, step and number of taps on each axis."""

    start: Offset
    step: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """The taps of the kernel, with those that are missing and would be zeros."""
        return math.prod(self.counts)

    def index(self, offset: Offset) -> Offset:
        """Return the place of a tap in the kernel."""
        return tuple((o - a) // g for o, a, g in zip(offset, self.start, self.step, strict=True))


def grid_of(taps: TapMap) -> Grid:
    """Return the smallest kernel that holds the taps."""
    axes = [sorted({o[axis] for o in taps.offsets}) for axis in range(taps.rank)]
    steps = tuple(math.gcd(*(o - axis[0] for o in axis)) or 1 for axis in axes)
    counts = tuple((axis[-1] - axis[0]) // g + 1 for axis, g in zip(axes, steps, strict=True))
    return Grid(tuple(axis[0] for axis in axes), steps, counts)


def sums(taps: TapMap, limit: int = LIMIT) -> Iterator[tuple[str, Sum]]:
    """Yield the ways to write a map as a sum of maps whose kernels have at most `limit` taps.

    Each comes with its name: `parity 2x2` (the moduli by axis), `windows 3x7` (the tile), or both
    where a class is still too large. Nothing is yielded for a map within the limit.
    """
    grid = grid_of(taps)
    if grid.size <= limit:
        return
    seen: set[frozenset[tuple[Offset, ...]]] = set()
    for name, parts in _candidates(taps, grid, limit):
        key = frozenset(part.offsets for part in parts)
        if key not in seen:
            seen.add(key)
            yield name, parts


def products(taps: TapMap) -> Iterator[tuple[str, tuple[Pair, ...]]]:
    """Yield the ways to write a depthwise map as a sum of compositions `second(first(x))`.

    For a map over two axes whose output channels read one input channel each, and only where the
    kernels' exact rank makes it fewer taps; nothing on the meta device or for a transposed map.
    """
    depthwise = taps.rank == 2 and taps.weight.shape[3] == 1
    if not depthwise or not taps.real or taps.up != (1, 1):
        return
    grid = grid_of(taps)
    left, values, right = torch.linalg.svd(_planes(taps, grid), full_matrices=False)
    rank = max(1, int((values > EXACT * values[:, :1]).sum(1).max()))
    if rank * sum(grid.counts) >= grid.size:
        return
    root = values.sqrt()
    factors = ((left * root[:, None]).permute(2, 1, 0), (right * root[:, :, None]).permute(1, 2, 0))
    for name, first in (("height first", 0), ("width first", 1)):
        yield f"rank {rank}, {name}", tuple(_pair(taps, grid, first, factors, r) for r in range(rank))


def _candidates(taps: TapMap, grid: Grid, limit: int) -> Iterator[tuple[str, Sum]]:
    for moduli in _moduli(grid.counts, limit):
        classes = _classes(taps, grid, moduli)
        small = all(grid_of(part).size <= limit for part in classes)
        parts = classes if small else tuple(w for part in classes for w in _tiles(part, limit)[1])
        yield f"parity {_by(moduli)}{'' if small else ' in windows'}", parts
    tile, parts = _tiles(taps, limit)
    yield f"windows {_by(tile)}", parts


def _moduli(counts: tuple[int, ...], limit: int) -> Iterator[tuple[int, ...]]:
    """Yield one modulus for all axes, up to the first that meets the limit, then the smallest mixtures.

    A larger one makes more convolutions of kernels that were small enough before.
    """

    def fits(moduli: tuple[int, ...]) -> bool:
        return math.prod(math.ceil(k / m) for k, m in zip(counts, moduli, strict=True)) <= limit

    for modulus in MODULI:
        alike = tuple(modulus if count > 1 else 1 for count in counts)
        yield alike
        if fits(alike):
            break
    for moduli in product(*(range(1, min(count, MODULI[-1]) + 1) for count in counts)):
        finer = [(*moduli[:i], m - 1, *moduli[i + 1 :]) for i, m in enumerate(moduli) if m > 1]
        if fits(moduli) and not any(map(fits, finer)):
            yield moduli


def _classes(taps: TapMap, grid: Grid, moduli: tuple[int, ...]) -> Sum:
    return _grouped(taps, [tuple(map(int.__mod__, grid.index(o), moduli)) for o in taps.offsets])


def _tiles(taps: TapMap, limit: int) -> tuple[tuple[int, ...], Sum]:
    """Return the tile of at most `limit` taps that needs fewest windows, and the windows."""
    grid = grid_of(taps)
    options = [
        (tile, _grouped(taps, [tuple(map(int.__floordiv__, grid.index(o), tile)) for o in taps.offsets]))
        for tile in _largest_tiles(grid.counts, limit)
    ]
    return min(options, key=lambda option: (len(option[1]), option[0]))


def _largest_tiles(counts: tuple[int, ...], limit: int) -> Iterator[tuple[int, ...]]:
    """Yield the tiles of at most `limit` taps that cannot grow on the last axis."""
    for lead in product(*(range(1, min(count, limit) + 1) for count in counts[:-1])):
        if math.prod(lead) <= limit:
            yield (*lead, min(counts[-1], limit // math.prod(lead)))


def _grouped(taps: TapMap, keys: list[tuple[int, ...]]) -> Sum:
    """Return one map for each different key of the taps, in the order of the keys."""
    members: dict[tuple[int, ...], list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    return tuple(_part(taps, members[key]) for key in sorted(members))


def _part(taps: TapMap, chosen: list[int]) -> TapMap:
    offsets = tuple(taps.offsets[i] for i in chosen)
    return replace(taps, offsets=offsets, blocks=taps.blocks.with_weight(taps.weight[chosen]))


def _planes(taps: TapMap, grid: Grid) -> torch.Tensor:
    """Return each output channel's kernel, [Co, Kh, Kw]."""
    planes = taps.weight.new_zeros(taps.channels_out, *grid.counts)
    rows, columns = zip(*map(grid.index, taps.offsets), strict=True)
    planes[:, rows, columns] = taps.weight.reshape(len(taps.offsets), -1).T
    return planes


def _pair(taps: TapMap, grid: Grid, first: int, factors: tuple[torch.Tensor, ...], term: int) -> Pair:
    """Return one term of the sum; `factors` are by axis, [r, K, Co].

    The first map has the blocks of the whole; the second only scales channels.
    """
    second = 1 - first
    middle: tuple[Dim, ...] = tuple(
        (taps.out_size if axis == first else taps.in_size)[axis] for axis in range(2)
    )
    heads = taps.blocks.with_weight(factors[first][term].reshape(-1, *taps.weight.shape[1:]))
    tails = grouped(factors[second][term].reshape(-1, taps.channels_out, 1, 1))
    return (
        _along(taps, grid, first, heads, taps.in_size, middle),
        _along(taps, grid, second, tails, middle, taps.out_size),
    )


def _along(
    taps: TapMap,
    grid: Grid,
    axis: int,
    matrices: Blocks,
    in_size: tuple[Dim, ...],
    out_size: tuple[Dim, ...],
) -> TapMap:
    """Return the map with the taps, stride and slack of one axis, and the identity's on the other."""

    def only(value: int, other: int) -> tuple[int, ...]:
        return tuple(value if i == axis else other for i in range(2))

    places = range(grid.counts[axis])
    offsets = tuple(only(grid.start[axis] + grid.step[axis] * i, 0) for i in places)
    stride, slack = only(taps.stride[axis], 1), only(taps.slack[axis], -1)
    edge = (taps.edge[0], ZEROS) if axis == 0 else (ZEROS, taps.edge[1])
    return TapMap(offsets, matrices, stride, slack, in_size, out_size, edge, (1, 1))


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
