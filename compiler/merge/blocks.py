r"""Matrices that are sparse by blocks: what a tap of a tap map multiplies with (`merges.md` 1.7).

The rows fall into G equal groups; group `g` reads one block of `k` columns, block `source[g]`:

    y_g = W_g x[source[g] k .. source[g] k + k - 1],     W of shape [T, G, r, k] over T taps

`source = 0 .. G-1` with `G k` columns is a grouped convolution, `r = k = 1` a depthwise one, G = 1 a
dense one. Any selection or permutation of rows stays in the form without a zero stored, and so does a
product whose blocks nest; everything else is made dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch


@dataclass(frozen=True, eq=False)
class Blocks:
    """`weight` [T, G, r, k], the block of columns each group reads, and the number of columns."""

    weight: torch.Tensor
    source: tuple[int, ...]
    columns: int

    @property
    def groups(self) -> int:
        """The number of row groups, G."""
        return self.weight.shape[1]

    @property
    def rows(self) -> int:
        """The number of rows, G r."""
        return self.weight.shape[1] * self.weight.shape[2]

    @property
    def standard(self) -> bool:
        """Whether the blocks lie on the diagonal: a grouped convolution."""
        return self.columns == self.groups * self.weight.shape[3] and self.source == tuple(range(self.groups))

    @property
    def diagonal(self) -> bool:
        """Whether the matrix is diagonal."""
        return self.weight.shape[2] == self.weight.shape[3] == 1 and self.standard

    def with_weight(self, weight: torch.Tensor) -> Blocks:
        """Return the same structure with other values, possibly over other taps."""
        return replace(self, weight=weight)


def grouped(weight: torch.Tensor) -> Blocks:
    """Return blocks on the diagonal, `weight` [T, G, r, k]."""
    groups = weight.shape[1]
    return Blocks(weight, tuple(range(groups)), groups * weight.shape[3])


def diagonal(scale: torch.Tensor) -> Blocks:
    """Return diag(scale), `scale` [C]."""
    return grouped(scale.reshape(1, -1, 1, 1))


def dense(matrix: torch.Tensor) -> Blocks:
    """Return one matrix, [Co, Ci], as one tap."""
    return grouped(matrix[None, None])


def regrouped(matrix: Blocks, groups: int) -> Blocks:
    """Return the matrix with `groups` blocks on the diagonal, zeros between; 1 always fits."""
    if matrix.groups == groups and matrix.standard:
        return matrix
    if groups != 1 and not (matrix.standard and matrix.groups % groups == 0):
        raise ValueError(f"{matrix.groups} blocks do not fit into {groups}")
    return _on_diagonal(matrix, groups)


def coarse(matrix: Blocks) -> Blocks:
    """Return the matrix with blocks on the diagonal, as many as it has without storing the rest."""
    if matrix.standard:
        return matrix
    width = matrix.weight.shape[3]
    for groups in _divisors(math.gcd(matrix.rows, matrix.columns)):
        span, part = matrix.columns // groups, matrix.rows // groups
        inside = (
            _within(g * matrix.weight.shape[2], part, s * width, width, span)
            for g, s in enumerate(matrix.source)
        )
        if part % matrix.weight.shape[2] == 0 and span % width == 0 and all(inside):
            return _on_diagonal(matrix, groups)
    return regrouped(matrix, 1)


def _within(row: int, part: int, column: int, width: int, span: int) -> bool:
    return row // part == column // span == (column + width - 1) // span


def _on_diagonal(matrix: Blocks, groups: int) -> Blocks:
    count, old, rows_, width = matrix.weight.shape
    factor, span = old // groups, matrix.columns // groups
    weight = matrix.weight.new_zeros(count, old, rows_, span)
    start = torch.tensor([s * width - (g // factor) * span for g, s in enumerate(matrix.source)])
    index = (start[:, None] + torch.arange(width)).to(weight.device)
    weight.scatter_(3, index[None, :, None, :].expand(count, old, rows_, width), matrix.weight)
    return grouped(weight.reshape(count, groups, factor * rows_, span))


def rows(matrix: Blocks, index: torch.Tensor) -> Blocks:
    """Return the rows `index`, [n], in that order."""
    if index.equal(torch.arange(matrix.rows)):
        return matrix
    per = matrix.weight.shape[2]
    flat = matrix.weight.flatten(1, 2)[:, index.to(matrix.weight.device)]
    source = [matrix.source[i // per] for i in index.tolist()]
    joined = math.gcd(*_runs(source), len(source))
    weight = flat.reshape(len(flat), -1, joined, flat.shape[-1])
    return Blocks(weight, tuple(source[::joined]), matrix.columns)


def _runs(items: list[int]) -> list[int]:
    """Return the lengths of the runs of equal neighbours."""
    lengths: list[int] = []
    for i, item in enumerate(items):
        if i and item == items[i - 1]:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


def stack(parts: list[Blocks]) -> Blocks:
    """Return the rows of all parts, which share taps and columns, one below the other."""
    width = max(p.weight.shape[3] for p in parts)
    if any(p.weight.shape[3] != width for p in parts):
        parts = [regrouped(p, 1) for p in parts]
    per = reduce(math.gcd, (p.weight.shape[2] for p in parts))
    fine = [_finer(p, per) for p in parts]
    weight = torch.cat([p.weight for p in fine], 1)
    joined = Blocks(weight, tuple(s for p in fine for s in p.source), parts[0].columns)
    return rows_merged(joined)


def _finer(matrix: Blocks, per: int) -> Blocks:
    """Return the same matrix with groups of `per` rows."""
    factor = matrix.weight.shape[2] // per
    weight = matrix.weight.reshape(len(matrix.weight), -1, per, matrix.weight.shape[3])
    return Blocks(weight, tuple(s for s in matrix.source for _ in range(factor)), matrix.columns)


def rows_merged(matrix: Blocks) -> Blocks:
    """Return the matrix with neighbouring groups of one source joined."""
    joined = math.gcd(*_runs(list(matrix.source)), matrix.groups)
    weight = matrix.weight.reshape(
        len(matrix.weight), -1, joined * matrix.weight.shape[2], matrix.weight.shape[3]
    )
    return Blocks(weight, matrix.source[::joined], matrix.columns)


def add(a: Blocks, b: Blocks) -> Blocks:
    """Return the sum of two matrices over the same taps."""
    if a.source == b.source and a.weight.shape == b.weight.shape:
        return a.with_weight(a.weight + b.weight)
    groups = math.gcd(a.groups, b.groups) if a.standard and b.standard else 1
    a, b = regrouped(a, groups), regrouped(b, groups)
    return a.with_weight(a.weight + b.weight)


def product(second: Blocks, first: Blocks) -> Blocks:
    """Return `second_u first_t` for all pairs of taps, in the order (u, t)."""
    if second.diagonal:
        scale = second.weight.reshape(len(second.weight), 1, *first.weight.shape[1:3], 1)
        return first.with_weight((scale * first.weight[None]).flatten(0, 1))
    if first.diagonal:
        picked = first.weight.reshape(len(first.weight), -1, second.weight.shape[3])[:, list(second.source)]
        return second.with_weight((second.weight[:, None] * picked[None, :, :, None, :]).flatten(0, 1))
    inner, per = second.weight.shape[3], first.weight.shape[2]
    if per % inner == 0:
        return _nested(second, _finer(first, inner))
    if inner % per == 0:
        return _nested(second, _gathered(first, inner // per))
    return _nested(second, _finer(regrouped(first, 1), inner))


def _nested(second: Blocks, first: Blocks) -> Blocks:
    """Multiply where each block of columns of `second` is one row group of `first`."""
    picked = first.weight[:, list(second.source)]
    weight = torch.matmul(second.weight[:, None], picked[None]).flatten(0, 1)
    return Blocks(weight, tuple(first.source[s] for s in second.source), first.columns)


def _gathered(matrix: Blocks, factor: int) -> Blocks:
    """Return the matrix with `factor` row groups joined into one that reads one wider block."""
    count, groups, per, width = matrix.weight.shape
    sources = [matrix.source[g : g + factor] for g in range(0, groups, factor)]
    weight = matrix.weight.reshape(count, groups // factor, factor, per, width)
    if all(len(set(s)) == 1 for s in sources):
        return Blocks(weight.flatten(2, 3), tuple(s[0] for s in sources), matrix.columns)
    together = all(len({i // factor for i in s}) == 1 for s in sources)
    if not together or matrix.columns % (factor * width):
        spread = regrouped(matrix, 1)
        return _finer(spread, factor * per)
    wide = weight.new_zeros(count, groups // factor, factor, per, factor, width)
    group, row = torch.arange(groups // factor)[:, None], torch.arange(factor)[None]
    place = torch.tensor(sources) % factor
    wide[:, group, row, :, place] = weight.permute(1, 2, 0, 3, 4)
    wide = wide.reshape(count, groups // factor, factor * per, factor * width)
    return Blocks(wide, tuple(s[0] // factor for s in sources), matrix.columns)


def _divisors(number: int) -> list[int]:
    return [d for d in range(number, 0, -1) if number % d == 0]
