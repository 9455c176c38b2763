"""From the pieces of a chain to the attempts that `explain` prints and tests assert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from compiler.cost.counts import FREE, node_counts
from compiler.cost.kernel import kernel_of
from compiler.ir.graph import Value
from compiler.merge.attempt import Alternative, Attempt, Exactness, Outcome, Refusal, Work
from compiler.merge.certificate import residual
from compiler.merge.describe import describe, describe_step, window
from compiler.merge.norms import follows_norm
from compiler.merge.path import FURTHEST, Piece
from compiler.merge.price import Price, program_counts
from compiler.merge.regions import Regions
from compiler.merge.site import site
from compiler.merge.step import Program


def attempts_of(regions: Regions, chain: list[Value], pieces: list[Piece], price: Price) -> list[Attempt]:
    """Return what was merged on a chain, and for each cut why the two sides were not."""
    return [*_merged(regions, pieces, price), *_struck(regions, chain), *_cuts(regions, pieces, price)]


def merged_attempt(regions: Regions, entry: Value, exit_: Value, program: Program, price: Price) -> Attempt:
    """Return the attempt of a region that was emitted."""
    return attempt(
        regions,
        entry,
        exit_,
        Outcome.MERGED,
        f"one equal form, and cheaper ({price.label})" + (f": {program.note}" if program.note else ""),
        program=program,
        price=price,
        certify=True,
    )


def attempt(
    regions: Regions,
    entry: Value,
    exit_: Value,
    outcome: Outcome,
    reason: str,
    node: str = "",
    program: Program | None = None,
    price: Price | None = None,
    certify: bool = False,
) -> Attempt:
    """Return an attempt on the region `entry -> exit_`."""
    values = regions.affine.between(entry, exit_)
    names = tuple(dict.fromkeys(v.node for v in values))
    price = price or regions.price
    return Attempt(
        site(regions.graph, names),
        entry.node,
        exit_.node,
        names,
        outcome,
        reason,
        node,
        form="" if program is None else program.found,
        before=_work_before(regions, entry, exit_, names, price),
        after=Work() if program is None else _work_after(regions, entry, program, price),
        exactness=Exactness.SHAPE if program is not None and program.shape_only else Exactness.REAL,
        priced_by=price.label,
        residual=residual(regions, entry, exit_, program) if certify and program is not None else None,
        window=window(regions.graph, node) if node in regions.graph else (),
        options=() if program is None else _options(regions, entry, exit_, price),
    )


def _options(regions: Regions, entry: Value, exit_: Value, price: Price) -> tuple[Alternative, ...]:
    """Return what each form of a region was measured to take; none where fewer than two were."""
    graph, type_ = regions.graph, regions.type(entry)
    nodes = [graph.node(n) for n in regions.replaced(entry, exit_)]
    standing = [kernel_of(graph, n) for n in nodes if n.op not in FREE and not follows_norm(graph, n)]
    forms = [("as it stands", tuple(describe(graph, n) for n in nodes), price.interval(standing))]
    for program in regions.written(entry, exit_) if price.table is not None else ():
        kernels = program.kernels(type_, price.size)
        forms.append((program.found, tuple(map(describe_step, program.steps)), price.interval(kernels)))
    found = [Alternative(form, ops, e.median, e.low, e.high) for form, ops, e in forms if e is not None]
    distinct: dict[object, Alternative] = {}
    for one in found:  # a form that writes the region as it stands is no other form
        distinct.setdefault((one.ops, one.median), one)
    return tuple(distinct.values()) if len(distinct) > 1 else ()


def _work_before(regions: Regions, entry: Value, exit_: Value, names: Sequence[str], price: Price) -> Work:
    graph = regions.graph
    gone = regions.replaced(entry, exit_)
    counted = [node_counts(graph, graph.node(n)) for n in gone]
    return Work(
        tuple(describe(graph, graph.node(n)) for n in names),
        sum(c.macs for c in counted),
        sum(c.bytes for c in counted),
        sum(map(price.node, gone)),
    )


def _work_after(regions: Regions, entry: Value, program: Program, price: Price) -> Work:
    counted = program_counts(program, regions.type(entry), price.size)
    return Work(
        tuple(map(describe_step, program.steps)),
        sum(c.macs for c in counted),
        sum(c.bytes for c in counted),
        price.program(program, regions.type(entry)),
    )


def _merged(regions: Regions, pieces: Sequence[Piece], price: Price) -> Iterator[Attempt]:
    for piece in pieces:
        yield from _merged(regions, piece.inner, price)
        if piece.program is not None:
            yield merged_attempt(regions, piece.entry, piece.exit, piece.program, price)
        elif piece.inner:
            yield from _reason(regions, piece.entry, piece.exit, piece.cost, price)


def _struck(regions: Regions, chain: list[Value]) -> Iterator[Attempt]:
    """Yield the pieces of this chain that real weights showed to be unequal, or equal in a roundabout way."""
    members = set(chain)
    for (entry, exit_), refusal in {**regions.uneven, **regions.struck}.items():
        if entry in members and exit_ in members and not refusal.quiet:
            yield attempt(regions, entry, exit_, Outcome.REFUSED, refusal.reason, refusal.node)


def _cuts(regions: Regions, pieces: list[Piece], price: Price) -> Iterator[Attempt]:
    computing = [p for p in pieces if p.program is not None or not regions.affine.nodes[p.exit].relabels]
    for piece in computing:  # an operation that stands for several may have another form by itself
        if piece.program is None and regions.affine.nodes[piece.exit].inside:
            before = pieces[: pieces.index(piece) + 1]
            yield from _reason(regions, pieces[0].entry, piece.exit, sum(p.cost for p in before), price)
    if len(computing) < 2:
        return
    entry, told = pieces[0].entry, False
    for left, right in pairwise(computing):
        between = pieces[pieces.index(left) : pieces.index(right) + 1]
        for found in _reason(regions, entry, right.exit, sum(p.cost for p in between), price):
            told = True
            yield found
        entry = left.exit
    if not told and len(pieces) <= FURTHEST:  # two neighbours may have no common form, and all of them one
        whole = sum(p.cost for p in pieces)
        yield from _reason(regions, pieces[0].entry, pieces[-1].exit, whole, price)


def _reason(regions: Regions, entry: Value, exit_: Value, chosen: float, price: Price) -> Iterator[Attempt]:
    """Yield why a region was not emitted as one: refused, or dearer than the `chosen` cut."""
    values = regions.affine.between(entry, exit_)
    computing = sum(
        1 + len(n.inside) for n in map(regions.affine.nodes.__getitem__, values) if not n.relabels
    )
    if computing < 2:
        return
    if (entry, exit_) in regions.struck:
        return
    try:
        cost, program = regions.emitted(entry, exit_, price)
    except Refusal as refusal:
        if not refusal.quiet:
            yield attempt(regions, entry, exit_, Outcome.REFUSED, refusal.reason, refusal.node)
        return
    standing = sorted(regions.graph.node(v.node).op for v in regions.affine.between(entry, exit_))
    if standing == sorted(s.op for s in program.steps):
        return  # the same operations in another order: no alternative
    reason = (
        f"legal, but as one operation it costs {cost / max(chosen, 1.0):.2f} times the cut that was chosen "
        f"({price.label})"
    )
    yield attempt(regions, entry, exit_, Outcome.KEPT, reason, exit_.node, program, price)
