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
from functools import partial

from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import PREFIX, WholeProgram
from compiler.cost.roofline import PRIOR, Roofline
from compiler.ir.graph import Graph
from compiler.merge.attempt import Attempt, Outcome
from compiler.merge.barriers import barriers
from compiler.merge.engine import certain_merges, merge_by
from compiler.merge.live_weights import live_weights
from compiler.merge.norms import exposed, restored
from compiler.merge.open_choices import open_kernels
from compiler.records import Metric

# A machine on which only the number of operations counts.
_LAUNCHES = Roofline(launch_macs=1e12)

Merged = tuple[Graph, tuple[Attempt, ...]]
Make = Callable[[Collection[str]], Merged]


def merge(
    graph: Graph,
    table: LatencyTable | None = None,
    prior: Roofline = PRIOR,
    keep: Collection[str] = (),
    apart: Collection[str] = (),
) -> Merged:
    """Return the graph with its affine regions in the cheapest equal form, and every attempt.

    `table` holds what the device at hand was measured to take; where it knows too little, `prior`
    decides. Sites in `keep` stay as they are; at those in `apart` branches are merged but not summed.
    """
    if table is None or not any(text.startswith(PREFIX) for text in table.entries):
        return merge_by(graph, table, prior, keep, apart)
    name = ""
    make: Make = partial(merge_by, graph, table, prior, apart=apart)
    chosen = by_kernels = table.entry(WholeProgram(make(())[0]))
    for other, others in _others(graph, prior, apart):
        entry = table.entry(WholeProgram(others(())[0])) if chosen else None
        if chosen and entry and entry.high < chosen.low:
            name, make, chosen = other, others, entry
    if not (name and chosen and by_kernels):
        return make(keep)
    unit = "instructions" if table.metric is Metric.INSTRUCTIONS else "ns"
    figures = f"{_interval(chosen)} against {_interval(by_kernels)} {unit}"
    return _labelled(make(keep), name, table, figures)


def whole_programs(
    graph: Graph, table: LatencyTable | None = None, prior: Roofline = PRIOR
) -> tuple[Kernel, ...]:
    """Return the programs that `merge` would compare and `table`, which has the kernels, lacks.

    There are none for a graph without an open choice, or with sizes that are only known at run time.
    """
    if table is None or graph.symbols or not open_kernels(graph, None, prior):
        return ()
    made = [merge_by(graph, table, prior)[0], *(make(())[0] for _, make in _others(graph, prior, ()))]
    programs = dict.fromkeys(map(WholeProgram, made))
    # One that is the only one has nothing to be compared with.
    return tuple(p for p in programs if p.text not in table.entries) if len(programs) > 1 else ()


def _others(graph: Graph, prior: Roofline, apart: Collection[str]) -> tuple[tuple[str, Make], ...]:
    def standing(keep: Collection[str]) -> Merged:
        made, attempts = certain_merges(exposed(graph), prior, keep, apart)
        made = restored(made)
        return made, (*attempts, *live_weights(made), *barriers(made))

    return (
        ("what is cheaper on any device", standing),
        ("the choice by the prior", partial(merge_by, graph, None, prior, apart=apart)),
        ("as few operations as there can be", partial(merge_by, graph, None, _LAUNCHES, apart=apart)),
    )


def _interval(entry: Entry) -> str:
    return f"{entry.median:.6g} ({entry.low:.6g} to {entry.high:.6g})"


def _labelled(merged: Merged, name: str, table: LatencyTable, figures: str) -> Merged:
    """Say in what was merged that the choice is not the kernels', whose prices the costs are not either."""
    graph, attempts = merged
    verdict = f"taken as a whole program ({name}), faster in the {table.label} than what its kernels chose"
    return graph, tuple(
        dataclasses.replace(a, reason=f"{a.reason}; {verdict}: {figures}")
        if a.outcome is Outcome.MERGED
        else a
        for a in attempts
    )
