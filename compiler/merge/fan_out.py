"""Fan-out: an affine value with several readers is absorbed by all of them or by none.

A BatchNorm read by two convolutions vanishes when both absorb it (`merges.md` 1.7 and 1.9); where
one cannot, it stays, since computing it once serves all.
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Value
from compiler.merge.apply import apply_steps
from compiler.merge.attempt import Attempt, Outcome, Refusal
from compiler.merge.emit import Step
from compiler.merge.regions import Regions
from compiler.merge.report import attempt, merged_attempt


def absorb_fan_out(regions: Regions) -> tuple[Graph, list[Attempt]]:
    """Return the graph with every profitable fan-out absorbed, and the attempts."""
    editor, renamed, attempts = Editor(regions.graph), dict[Value, Value](), list[Attempt]()
    touched: set[Value] = set()
    for value in regions.affine.nodes:
        readers = _readers(regions, value)
        if len(readers) < 2 or touched & {value, *readers}:
            continue
        entry = regions.affine.nodes[value].terms[0].value
        try:
            steps = _steps(regions, entry, value, readers)
        except Refusal as refusal:
            attempts.append(
                attempt(regions, entry, value, Outcome.REFUSED, refusal.reason, refusal.node, (), 0.0)
            )
            continue
        if steps is None:
            continue
        for reader in readers:
            attempts.append(merged_attempt(regions, entry, reader, steps[reader]))
            apply_steps(regions, entry, reader, steps[reader], editor, renamed)
        touched |= {value, *readers}
    return editor.finish(), attempts


def _readers(regions: Regions, value: Value) -> list[Value]:
    """Return the readers of a one-operand affine value when all of them are such too, else none."""
    nodes = regions.affine.nodes
    readers = [n.value for n in regions.graph.users(value.node)]
    unary = all(r in nodes and len(nodes[r].terms) == 1 for r in readers)
    return readers if unary and len(nodes[value].terms) == 1 else []


def _steps(
    regions: Regions, entry: Value, value: Value, readers: list[Value]
) -> dict[Value, list[Step]] | None:
    """Return each reader's merged steps, or None where together they are not cheaper."""
    before = regions.cost(value.node) + sum(regions.cost(r.node) for r in readers)
    if sum(regions.price(regions.steps(entry, r, weights=False), entry) for r in readers) >= before:
        return None
    return {r: regions.steps(entry, r, weights=True) for r in readers}
