"""All structural methods as one: what they offer for a graph, and a plan's structure applied in order.

Structure comes before precision. Each method rewrites what the ones before it made, in the order of
`ORDER`; what is left is cleaned by the exact passes, but not merged again: merging would multiply the
factors back that a method has just made. An operation that no method touches keeps its name.
"""

from __future__ import annotations

from collections.abc import Collection

from compiler.compress import (
    crop_kernels,
    drop_experts,
    drop_sublayers,
    low_rank,
    lower_top_k,
    mpo,
    prune_channels,
    separable,
    stitch,
)
from compiler.compress.decision import KEEP, Method, Offer, Setting
from compiler.compress.keep_branches import METHOD as BRANCHES
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.passes import PIPELINE
from compiler.passes.load_time import load_generators
from compiler.passes.placement import Threshold
from compiler.plan import Plan

# Whole stretches first, then single layers; pruning last, for it fits the readers to what is left.
ORDER: tuple[Method, ...] = (
    stitch,
    drop_sublayers,
    drop_experts,
    lower_top_k,
    crop_kernels,
    separable,
    low_rank,
    mpo,
    prune_channels,
)


def structure_offers(
    graph: Graph, setting: Setting, methods: Collection[str] | None = None
) -> tuple[tuple[str, Offer], ...]:
    """Return what each method, or each of those named, offers for a merged float graph, with its name."""
    asked = [m for m in ORDER if methods is None or m.METHOD in methods]
    return tuple((m.METHOD, offer) for m in asked for offer in m.offers(graph, setting))


def structural(plan: Plan) -> Plan:
    """Return the decisions of a plan that change the structure, in the plan's order.

    Branches that stay apart are among them: what is made of a graph depends on them first.
    """
    names = {BRANCHES, *(m.METHOD for m in ORDER)}
    return Plan(tuple(d for d in plan.decisions if d.method in names and d.option != KEEP))


def apply_structure(graph: Graph, plan: Plan, setting: Setting) -> Graph:
    """Return a merged float graph with a plan's structural decisions applied; itself where there are none.

    Raises UsageError for a site or an option that a method does not offer on the graph as it finds it.
    """
    chosen = structural(plan).without(BRANCHES)  # the graph has those apart already
    if not chosen.decisions:
        return graph
    for method in ORDER:
        choices = {d.site: d.option for d in chosen.decisions if d.method == method.METHOD}
        if choices:
            graph = method.apply(graph, choices, setting)
            verify(graph)
    source = graph
    for _, run in PIPELINE:
        graph = run(graph)
    if any(d.method == mpo.METHOD for d in chosen.decisions):
        graph, _ = load_generators(graph, source, Threshold(1.0, 1))  # what was factored for its bytes
    verify(graph)
    return graph


def check_methods(plan: Plan, others: tuple[str, ...]) -> None:
    """Raise UsageError for a decision of a method there is not; `others` are not structural."""
    known = [*(m.METHOD for m in ORDER), *others]
    for d in plan.decisions:
        if d.method not in known:
            raise UsageError(
                f"the plan decides {d.method} {d.option} at {d.site!r}; methods are: {', '.join(known)}"
            )
