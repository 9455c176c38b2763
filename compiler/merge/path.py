"""The cheapest way to cut a chain of dominators into pieces: a shortest path.

Between neighbours a piece may be kept; its branches, where it is a sum, are then solved the same way.
Any other piece is emitted. Pieces span at most `_REACH` operations that compute, so that a long affine
stretch costs linear time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.cost.counts import node_counts
from compiler.ir.graph import Value
from compiler.merge.attempt import Refusal
from compiler.merge.price import Price
from compiler.merge.regions import Regions
from compiler.merge.step import Program

_REACH = 8
FURTHEST = 24  # dominators, those that only move elements included


@dataclass(frozen=True)
class Piece:
    """One region of the cut; `inner` holds the branches of a kept sum."""

    entry: Value
    exit: Value
    program: Program | None  # None: kept as it is
    cost: float
    inner: tuple[Piece, ...] = ()


def solve(regions: Regions, chain: list[Value], price: Price) -> list[Piece]:
    """Return the cheapest pieces from `chain[0]` to `chain[-1]`; ties keep what is there."""
    best: list[tuple[float, int, Piece | None]] = [(0.0, -1, None)]
    for j in range(1, len(chain)):
        kept = _keep(regions, chain[j - 1], chain[j], price)
        choice = (best[j - 1][0] + kept.cost, j - 1, kept)
        for i in starts(regions, chain, j):
            piece = _emit(regions, chain[i], chain[j], price)
            if piece is not None and best[i][0] + piece.cost < choice[0] * (1 - 1e-9):
                choice = (best[i][0] + piece.cost, i, piece)
        best.append(choice)
    pieces, j = [], len(chain) - 1
    while j > 0:
        _, i, piece = best[j]
        assert piece is not None
        pieces.append(piece)
        j = i
    return pieces[::-1]


def starts(regions: Regions, chain: list[Value], j: int) -> Iterator[int]:
    """Yield where a piece that ends at `chain[j]` may begin; none where nothing in it computes."""
    computing = 0
    for i in range(j - 1, max(-1, j - 1 - FURTHEST), -1):
        computing += not regions.affine.nodes[chain[i + 1]].relabels
        if computing > _REACH:
            return
        if computing and (i < j - 1 or not _settled(regions, chain[j])):
            yield i


def _settled(regions: Regions, exit_: Value) -> bool:
    """Tell whether an operation on its own is in its only form already, as far as the prior can tell."""
    node = regions.graph.node(exit_.node)
    known = node.op.startswith(("aten.conv", "aten.linear")) and not regions.judged
    return known and not regions.price.prior.lacks(node_counts(regions.graph, node))


def emitted_pieces(pieces: list[Piece] | tuple[Piece, ...]) -> Iterator[Piece]:
    """Yield every emitted piece, inner ones first."""
    for piece in pieces:
        yield from emitted_pieces(piece.inner)
        if piece.program is not None:
            yield piece


def _emit(regions: Regions, entry: Value, exit_: Value, price: Price) -> Piece | None:
    try:
        cost, program = regions.emitted(entry, exit_, price)
    except Refusal:
        return None
    return Piece(entry, exit_, program, cost) if cost < math.inf else None


def _keep(regions: Regions, entry: Value, exit_: Value, price: Price) -> Piece:
    inner: list[Piece] = []
    for branch in regions.affine.nodes[exit_].terms:
        if branch != entry and branch not in regions.affine.roots:
            inner += solve(regions, regions.affine.path(entry, branch), price)
    own = (*regions.affine.nodes[exit_].inside, exit_.node)
    cost = sum(map(price.node, own)) + sum(p.cost for p in inner)
    return Piece(entry, exit_, None, cost, tuple(inner))
