"""The cheapest way to cut a chain of dominators into pieces: a shortest path.

Between neighbours a piece may be kept; its branches, where it is a sum, are then solved the same way.
Any other piece is emitted. Pieces span at most `_REACH` dominators, so that a long affine stretch
costs linear time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.ir.graph import Value
from compiler.merge.attempt import Refusal
from compiler.merge.regions import Regions

_REACH = 8


@dataclass(frozen=True)
class Piece:
    """One region of the cut; `inner` holds the branches of a kept sum."""

    entry: Value
    exit: Value
    emitted: bool
    cost: float
    inner: tuple[Piece, ...] = ()


def solve(regions: Regions, chain: list[Value]) -> list[Piece]:
    """Return the cheapest pieces from `chain[0]` to `chain[-1]`; ties keep what is there."""
    best: list[tuple[float, int, Piece | None]] = [(0.0, -1, None)]
    for j in range(1, len(chain)):
        kept = _keep(regions, chain[j - 1], chain[j])
        choice = (best[j - 1][0] + kept.cost, j - 1, kept)
        for i in range(j - 1, max(-1, j - 1 - _REACH), -1):
            cost = best[i][0] + _emission_cost(regions, chain[i], chain[j])
            if cost < choice[0] * (1 - 1e-12):
                choice = (cost, i, Piece(chain[i], chain[j], True, cost - best[i][0]))
        best.append(choice)
    pieces, j = [], len(chain) - 1
    while j > 0:
        _, i, piece = best[j]
        assert piece is not None
        pieces.append(piece)
        j = i
    return pieces[::-1]


def emitted_pieces(pieces: list[Piece] | tuple[Piece, ...]) -> Iterator[Piece]:
    """Yield every emitted piece, inner ones first."""
    for piece in pieces:
        yield from emitted_pieces(piece.inner)
        if piece.emitted:
            yield piece


def _emission_cost(regions: Regions, entry: Value, exit_: Value) -> float:
    try:
        return regions.emitted(entry, exit_)
    except Refusal:
        return math.inf


def _keep(regions: Regions, entry: Value, exit_: Value) -> Piece:
    inner: list[Piece] = []
    branches = {t.value: None for t in regions.affine.nodes[exit_].terms if t.value != entry}
    for branch in branches:
        if branch not in regions.affine.roots:
            inner += solve(regions, regions.affine.path(entry, branch))
    cost = regions.cost(exit_.node) + sum(p.cost for p in inner)
    return Piece(entry, exit_, False, cost, tuple(inner))
