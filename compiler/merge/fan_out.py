"""Fan-out: an affine value with several readers is absorbed by all of them or by none.

A BatchNorm read by two convolutions vanishes when both absorb it (`merges.md` 1.7 and 1.9); where
one cannot, it stays, since computing it once serves all. One linear whose outputs are sliced apart
splits into one linear a slice the same way, where the price says so.
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Value
from compiler.merge.apply import apply_program
from compiler.merge.attempt import Attempt, Outcome, Refusal
from compiler.merge.memory import EVERY, give_back
from compiler.merge.price import Price
from compiler.merge.region import readers
from compiler.merge.regions import Regions
from compiler.merge.report import attempt, merged_attempt
from compiler.merge.step import Program

_REACH = 4
_SMALL = 1024  # elements


def absorb_fan_out(regions: Regions) -> tuple[Graph, list[Attempt]]:
    """Return the graph with every profitable fan-out absorbed, and the attempts."""
    editor, renamed, attempts = Editor(regions.graph), dict[Value, Value](), list[Attempt]()
    touched: set[Value] = set()
    for count, value in enumerate(regions.affine.nodes, 1):
        regions.forget()
        if count % EVERY == 0:
            give_back()
        made = _readers(regions, value)
        if not made:
            attempts += _half_read(regions, value)
        if len(made) < 2 or touched & {value, *made}:
            continue
        try:
            entry, programs = _best(regions, value, made)
        except Refusal as refusal:
            if not refusal.quiet:
                entry = regions.affine.nodes[value].terms[0]
                attempts.append(attempt(regions, entry, value, Outcome.REFUSED, refusal.reason, refusal.node))
            continue
        if entry is None or touched & set(regions.affine.between(entry, value)):
            continue
        for reader in made:
            attempts.append(merged_attempt(regions, entry, reader, programs[reader], regions.price))
            apply_program(regions, entry, reader, programs[reader], editor, renamed)
        touched |= {value, *made, *regions.affine.between(entry, value)}
    return editor.finish(), attempts


def _readers(regions: Regions, value: Value) -> list[Value]:
    """Return the readers of an affine value when each of them is an affine operation on it alone."""
    nodes = regions.affine.nodes
    made = readers(regions.graph, value)
    unary = all(r in nodes and nodes[r].terms == (value,) for r in made)
    return made if unary else []


def _half_read(regions: Regions, value: Value) -> list[Attempt]:
    """Return the refusal of a value that some of its readers could absorb, and others cannot."""
    nodes = regions.affine.nodes
    made = readers(regions.graph, value)
    able = [r for r in made if r in nodes and nodes[r].terms == (value,) and not nodes[r].relabels]
    unable = [r for r in made if r not in nodes]
    if not able or not unable or nodes[value].relabels or len(nodes[value].terms) != 1:
        return []
    entry = nodes[value].terms[0]
    reason = f"it is read by {unable[0].node!r} too, which cannot absorb it: all readers absorb it, or none"
    return [attempt(regions, entry, value, Outcome.REFUSED, reason, unable[0].node)]


def _best(regions: Regions, value: Value, made: list[Value]) -> tuple[Value | None, dict[Value, Program]]:
    """Return the entry from which the readers are cheapest, with their programs; None to leave them."""
    price = regions.measured or regions.price
    refusal: Refusal | None = None
    best: tuple[float, Value] | None = None
    entry = value
    for _ in range(_REACH):
        if entry not in regions.affine.dominators.parent:
            break
        entry = regions.affine.dominators.parent[entry]
        try:
            saving = _saving(regions, entry, value, made, price)
        except Refusal as found:
            refusal = refusal or found
            continue
        if saving > 0 and (best is None or saving > best[0]):
            best = saving, entry
        if entry in regions.affine.roots:
            break
    if best is None:
        if refusal is not None:
            raise refusal
        return None, {}
    return best[1], {r: regions.realised(best[1], r, price) for r in made}


def _saving(regions: Regions, entry: Value, value: Value, made: list[Value], price: Price) -> float:
    """Return what absorbing everything between `entry` and the readers saves; raises Refusal."""
    gone = {n for r in made for n in regions.replaced(entry, r)} | set(regions.replaced(entry, value))
    inside = set(regions.affine.between(entry, value)) | set(made)
    for shared in regions.affine.between(entry, value):
        if not set(readers(regions.graph, shared)) <= inside:
            return 0.0  # somebody else needs it
    gone |= {v.node for v in inside}
    before = sum(map(price.node, gone))
    if _small(regions, inside):  # a mask of ones and zeros shows only with its values
        for reader in made:
            regions.realised(entry, reader, price)
    after = sum(regions.emitted(entry, r, price)[0] for r in made)
    return before * (1 - 1e-9) - after


def _small(regions: Regions, values: set[Value]) -> bool:
    """Tell whether all the weights of these operations together are next to nothing."""
    graph = regions.graph
    weights = [graph.constant(o) for v in values for _, o in graph.node(v.node).values()]
    return sum(w.numel() for w in weights if w is not None) <= _SMALL
