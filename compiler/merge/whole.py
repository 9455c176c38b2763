"""The last word on a merge by measured kernels: whole programs, measured against each other.

The latencies of kernels do not add up to that of a program: a runtime keeps one layout across several
operations, fuses some, and starts a subgraph anew where it must leave one. So the graph that a table's
kernels choose is measured whole before it is trusted, beside three others that are equal to it:

    as it stands    only what is cheaper on any device
    by the prior    the roofline's choice
    merged          as few operations as there can be

One of those is taken where its latency lies clearly, by both intervals, below that of the choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import LatencyTable
from compiler.cost.program import PREFIX, WholeProgram
from compiler.cost.roofline import PRIOR, Roofline
from compiler.ir.graph import Graph
from compiler.merge.attempt import Attempt, Outcome
from compiler.merge.engine import certain_merges, merge_by
from compiler.merge.norms import exposed, restored
from compiler.merge.open_choices import open_kernels

# A machine on which only the number of operations counts.
_LAUNCHES = Roofline(launch_macs=1e12)

Merged = tuple[Graph, tuple[Attempt, ...]]


def merge(
    graph: Graph,
    table: LatencyTable | None = None,
    prior: Roofline = PRIOR,
    keep: Collection[str] = (),
) -> Merged:
    """Return the graph with its affine regions in the cheapest equal form, and every attempt.

    `table` holds what the device at hand was measured to take; where it knows too little, `prior`
    decides. Sites in `keep` stay as they are.
    """
    found = merge_by(graph, table, prior, keep)
    if table is None or not any(text.startswith(PREFIX) for text in table.entries):
        return found
    chosen = table.entry(WholeProgram(found[0]))
    for name, make in _others(graph, prior, keep):
        if chosen is None:
            break
        other = make()
        entry = table.entry(WholeProgram(other[0]))
        if entry is not None and entry.high < chosen.low:
            found, chosen = _labelled(other, name, table), entry
    return found


def whole_programs(
    graph: Graph, table: LatencyTable | None = None, prior: Roofline = PRIOR
) -> tuple[Kernel, ...]:
    """Return the programs that `merge` would compare and `table`, which has the kernels, lacks.

    There are none for a graph without an open choice, or with sizes that are only known at run time.
    """
    if table is None or graph.symbols or not open_kernels(graph, None, prior):
        return ()
    made = [merge_by(graph, table, prior)[0], *(make()[0] for _, make in _others(graph, prior, ()))]
    programs = dict.fromkeys(map(WholeProgram, made))
    # One that is the only one has nothing to be compared with.
    return tuple(p for p in programs if p.text not in table.entries) if len(programs) > 1 else ()


def _others(
    graph: Graph, prior: Roofline, keep: Collection[str]
) -> tuple[tuple[str, Callable[[], Merged]], ...]:
    def standing() -> Merged:
        made, attempts = certain_merges(exposed(graph), prior, keep)
        return restored(made), tuple(attempts)

    return (
        ("what is cheaper on any device", standing),
        ("the choice by the prior", lambda: merge_by(graph, None, prior, keep)),
        ("as few operations as there can be", lambda: merge_by(graph, None, _LAUNCHES, keep)),
    )


def _labelled(merged: Merged, name: str, table: LatencyTable) -> Merged:
    label = f"whole programs in the {table.label}: {name}"
    graph, attempts = merged
    return graph, tuple(
        a if a.outcome is Outcome.BARRIER else dataclasses.replace(a, priced_by=label) for a in attempts
    )
