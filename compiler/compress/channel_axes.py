r"""Which positions along the dimensions of a value belong together, and how a reshape carries that.

An axis labels positions along one or more dimensions of a value with atoms, the smallest things that
could be cut. Most cover one dimension, the channels; what a linear layer made for all heads covers three
after the reshape to [3, heads, head size], until attention shows which atoms go together.

A reshape is read in blocks: the shortest runs of dimensions of equal product on both sides. Labels are
spread over a block, so that a channel of [C, H, W] becomes the H W columns of a flattened [C H W].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from compiler.ir.graph import Dim

Atoms: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Axis:
    """Dimensions of a value, in order, and the atom of each position: one array dimension for each."""

    dims: tuple[int, ...]
    atoms: Atoms

    def moved(self, dims: Sequence[int]) -> Axis:
        """Return the same positions at other dimensions of another value, in that value's order."""
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        return Axis(tuple(dims[i] for i in order), self.atoms.transpose(order))

    def over(self, dims: Sequence[int]) -> Atoms:
        """Return the atoms with an array dimension for each of `dims`, of size 1 where the axis has none."""
        sizes = dict(zip(self.dims, self.atoms.shape, strict=True))
        return self.atoms.reshape([sizes.get(d, 1) for d in dims])


def varying(atoms: Atoms) -> tuple[int, ...]:
    """Return the array dimensions along which the atoms differ."""
    return tuple(i for i in range(atoms.ndim) if not (atoms == np.take(atoms, [0], axis=i)).all())


def compact(dims: Sequence[int], atoms: Atoms) -> Axis | None:
    """Return an axis over the dimensions along which atoms differ, None where they do not."""
    kept = varying(atoms)
    index = tuple(slice(None) if i in kept else 0 for i in range(atoms.ndim))
    return Axis(tuple(dims[i] for i in kept), atoms[index]) if kept else None


def reshape_blocks(
    before: Sequence[Dim], after: Sequence[Dim]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the shortest runs of dimensions of equal product; a last one that has none holds all the rest."""
    tail = _equal_tail(before, after)
    last_before, last_after = len(before) - tail, len(after) - tail
    i = j = 0
    while i < last_before or j < last_after:
        first_i, first_j = i, j
        i, j = min(i + 1, last_before), min(j + 1, last_after)
        while not _same(before[first_i:i], after[first_j:j]) and (i < last_before or j < last_after):
            behind = _size(before[first_i:i]) < _size(after[first_j:j])
            if i < last_before and (behind or j == last_after):
                i += 1
            else:
                j += 1
        yield tuple(range(first_i, i)), tuple(range(first_j, j))
    yield from (((len(before) - k,), (len(after) - k,)) for k in range(tail, 0, -1))


def _equal_tail(before: Sequence[Dim], after: Sequence[Dim]) -> int:
    pairs = zip(reversed(before), reversed(after), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _same(left: Sequence[Dim], right: Sequence[Dim]) -> bool:
    return _size(left) == _size(right) and _symbols(left) == _symbols(right)


def _size(dims: Sequence[Dim]) -> int:
    return math.prod(d for d in dims if isinstance(d, int))


def _symbols(dims: Sequence[Dim]) -> list[str]:
    return sorted(str(d) for d in dims if not isinstance(d, int))
