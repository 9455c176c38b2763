"""The merge engine: price every cut of every affine region, emit the cheapest equal form.

For each root (see `region`), its chain of dominators `d_0 .. d_k` is cut into pieces. A piece
`d_i -> d_j` is either emitted from its tap map or, between neighbours, kept as it is (with the
branches inside optimised by the same rule). The cheapest cut is a shortest path over the chain.
Geometry and price come from meta tensors; only the chosen pieces are computed with weights, in
float64, and cast once. A piece that turns out not to be equal (a shift in front of zero fill) is
struck out and the path solved again.

RepVGG, ACNet, MobileOne, RepMixer and the like need no rule here: they are sums of compositions.
"""

from __future__ import annotations

from compiler.cost.roofline import PRIOR, Roofline
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Value
from compiler.merge.apply import apply_steps
from compiler.merge.attempt import Attempt, Refusal
from compiler.merge.emit import Step
from compiler.merge.fan_out import absorb_fan_out
from compiler.merge.path import Piece, emitted_pieces, solve
from compiler.merge.reassociate import reassociate
from compiler.merge.regions import Regions
from compiler.merge.report import attempts_of
from compiler.passes.dead_code import dead_code


def merge(graph: Graph, roofline: Roofline = PRIOR) -> tuple[Graph, tuple[Attempt, ...]]:
    """Return the graph with its affine regions in the cheapest equal form, and every attempt."""
    graph = reassociate(graph)
    regions = Regions(graph, roofline)
    editor = Editor(graph)
    renamed: dict[Value, Value] = {}
    attempts: list[Attempt] = []
    for root in regions.affine.roots:
        attempts += _merge_root(regions, root, editor, renamed)
    merged = dead_code(editor.finish())
    merged, absorbed = absorb_fan_out(Regions(merged, roofline))
    return dead_code(merged), (*attempts, *absorbed)


def _merge_root(regions: Regions, root: Value, editor: Editor, renamed: dict[Value, Value]) -> list[Attempt]:
    chain = regions.affine.chain(root)
    pieces, steps = _solved(regions, chain)
    report = attempts_of(regions, chain, pieces, steps)
    for piece in emitted_pieces(pieces):
        if piece.exit not in renamed:
            apply_steps(regions, piece.entry, piece.exit, steps[piece], editor, renamed)
    return report


def _solved(regions: Regions, chain: list[Value]) -> tuple[list[Piece], dict[Piece, list[Step]]]:
    """Return the cheapest pieces that hold with real weights, and what they emit."""
    while True:
        pieces = solve(regions, chain)
        steps: dict[Piece, list[Step]] = {}
        for piece in emitted_pieces(pieces):
            try:
                steps[piece] = regions.steps(piece.entry, piece.exit, weights=True)
            except Refusal as refusal:
                regions.struck[piece.entry, piece.exit] = refusal
                break
        else:
            return pieces, steps
