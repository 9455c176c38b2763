"""The merge engine: price every cut of every affine region, emit the cheapest equal form.

For each root (see `region`), its chain of dominators `d_0 .. d_k` is cut into pieces. A piece
`d_i -> d_j` is either emitted from its form or, between neighbours, kept as it is (with the
branches inside optimised by the same rule). The cheapest cut is a shortest path over the chain.
Geometry and price come from meta tensors; only the chosen pieces are computed with weights, in
float64, and cast once. A piece that real weights show to be unequal, or dearer (a shift in front of
zero fill), is struck out or priced anew, and the path solved again.

RepVGG, ACNet, MobileOne, RepMixer and the like need no rule here: they are sums of compositions.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Value
from compiler.merge.apply import apply_program
from compiler.merge.associate import associate
from compiler.merge.attempt import Attempt, Outcome, Refusal
from compiler.merge.barriers import barriers
from compiler.merge.centre import centre
from compiler.merge.contraction import contract
from compiler.merge.fan_out import absorb_fan_out
from compiler.merge.gauge import along_streams, through_activations
from compiler.merge.live_weights import live_weights
from compiler.merge.memory import EVERY, give_back
from compiler.merge.mixture import mix_kernels
from compiler.merge.norms import exposed, restored
from compiler.merge.path import Piece, emitted_pieces, solve
from compiler.merge.price import Price
from compiler.merge.reassociate import reassociate
from compiler.merge.regions import Regions
from compiler.merge.report import attempts_of
from compiler.passes.common import share_computations
from compiler.passes.dead_code import dead_code
from compiler.passes.neutral import drop_neutral
from compiler.passes.share import share

_ROUNDS = 4


def merge_by(
    graph: Graph,
    table: LatencyTable | None,
    prior: Roofline = PRIOR,
    keep: Collection[str] = (),
    apart: Collection[str] = (),
) -> tuple[Graph, tuple[Attempt, ...]]:
    """Return the graph with each affine region in the cheapest equal form, and every attempt.

    A form costs what `table` says of its kernels, and what `prior` says where there is none or it lacks one.
    """
    graph, attempts = contract(graph, Price(graph, prior, table))
    graph, orders = exposed(graph), tuple(attempts)
    if table is not None:
        graph, certain = certain_merges(graph, prior, keep, apart)
        attempts += certain
    for _ in range(_ROUNDS):
        graph, found = _round(graph, prior, table, keep, apart)
        attempts = [a for a in attempts if a.outcome is Outcome.MERGED or a in orders] + found
        if all(a.outcome is not Outcome.MERGED for a in found):
            break
    graph = restored(share(drop_neutral(graph)))
    graph, centred = centre(graph, Price(graph, prior, table))
    return graph, (*attempts, *centred, *live_weights(graph), *barriers(graph))


def certain_merges(
    graph: Graph, prior: Roofline, keep: Collection[str] = (), apart: Collection[str] = ()
) -> tuple[Graph, list[Attempt]]:
    """Return the graph with the merges that are cheaper on any device: they need no price."""
    return _round(graph, prior, None, keep, apart, certain=True)


def _round(
    graph: Graph,
    prior: Roofline,
    table: LatencyTable | None,
    keep: Collection[str],
    apart: Collection[str],
    certain: bool = False,
) -> tuple[Graph, list[Attempt]]:
    mixed, ordered = list[Attempt](), list[Attempt]()
    if not certain:  # an order of products is never free of a price
        graph, mixed = mix_kernels(graph, Price(graph, prior, table))
    regions = Regions(reassociate(through_activations(graph)), prior, table, keep, certain, apart)
    editor = Editor(regions.graph)
    renamed: dict[Value, Value] = {}
    attempts = mixed
    for count, root in enumerate(visited(regions), 1):
        attempts += _merge_root(regions, root, editor, renamed)
        if count % EVERY == 0:
            give_back()
    merged = dead_code(editor.finish())
    if not certain:
        merged, ordered = associate(merged, Price(merged, prior, table))
    merged, absorbed = absorb_fan_out(Regions(merged, prior, table, keep, certain, apart))
    merged, moved = along_streams(dead_code(merged))
    return share_computations(dead_code(merged)), [*attempts, *ordered, *absorbed, *moved]


def visited(regions: Regions) -> list[Value]:
    """Return the roots in the order they are merged in, which decides nothing."""
    return list(regions.affine.roots)


def _merge_root(regions: Regions, root: Value, editor: Editor, renamed: dict[Value, Value]) -> list[Attempt]:
    chain = regions.affine.chain(root)
    price = regions.price
    pieces: list[Piece] | None = None
    if regions.measured is not None:
        price = regions.measured
        pieces = _solved(regions, chain, price)
    if pieces is None or any(p.cost == math.inf for p in pieces):
        price = regions.price
        pieces = _solved(regions, chain, price)
    report = attempts_of(regions, chain, pieces, price)
    for piece in emitted_pieces(pieces):
        # A region that was merged before may have left nothing that reads this one.
        unread = piece.exit.node not in editor.graph
        if piece.program is not None and piece.exit not in renamed and not unread:
            apply_program(regions, piece.entry, piece.exit, piece.program, editor, renamed)
    regions.forget()
    return report


def _solved(regions: Regions, chain: list[Value], price: Price) -> list[Piece]:
    """Return the cheapest pieces that hold with real weights."""
    while True:
        pieces = solve(regions, chain, price)
        new = [p for p in emitted_pieces(pieces) if (p.entry, p.exit) not in regions.real]
        if not new:
            return pieces
        for piece in new:
            try:
                regions.realised(piece.entry, piece.exit, price)
            except Refusal as refusal:
                regions.struck[piece.entry, piece.exit] = refusal.at(piece.exit.node)
