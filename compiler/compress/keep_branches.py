"""Sums of branches that stay apart: `<site>  branches  kept`, done to the merged graph before all else.

It costs time and no accuracy in float32, so that it is of use beside int8 alone
(`compiler.merge.branches`): a search offers it there as one decision with the precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from compiler.compress.segments import Segment
from compiler.errors import UsageError
from compiler.ir.graph import Graph, Node
from compiler.merge.branches import Branches
from compiler.plan import Decision, Plan

METHOD = "branches"
KEPT = "kept"


def kept_decisions(plan: Plan) -> tuple[Decision, ...]:
    """Return the decisions of a plan that leave branches apart."""
    return tuple(d for d in plan.decisions if d.method == METHOD)


def keep_branches(graph: Graph, plan: Plan, branches: Branches | None) -> Graph:
    """Return the merged graph with the branches apart that a plan says; itself where there are none.

    Raises UsageError for a site at which no sum was folded, and for another option.
    """
    decisions = kept_decisions(plan)
    if not decisions:
        return graph
    known = branches.sites if branches is not None else ()
    for d in decisions:
        if d.site not in known or d.option != KEPT:
            raise UsageError(
                f"the plan decides {d.method} {d.option} at {d.site!r}; accepted: {METHOD} {KEPT} at "
                f"{', '.join(known) or 'no site: this model has no sum that was folded'}"
            )
    assert branches is not None
    return branches.kept([d.site for d in decisions])


def placed(cut: Sequence[Segment], graph: Graph, kept: Graph) -> tuple[Segment, ...]:
    """Return segments of a merged graph with the operations of one in which branches are apart.

    What a merge makes gets a number where it is made, so that operations are the same by their name, kind
    and module only; others go where their module, or the nearest module around it, has been.
    """
    if kept is graph:
        return tuple(cut)
    home = {name: i for i, segment in enumerate(cut) for name in segment.nodes}
    modules: dict[str, int] = {}
    for node in graph.ops():
        if node.origin and node.name in home:
            modules.setdefault(node.origin, home[node.name])
    members: list[set[str]] = [set() for _ in cut]
    for node in kept.ops():
        index = home.get(node.name) if _same(graph, node) else _around(modules, node.origin)
        if index is not None:
            members[index].add(node.name)
    return tuple(dataclasses.replace(s, nodes=frozenset(m)) for s, m in zip(cut, members, strict=True))


def _same(graph: Graph, node: Node) -> bool:
    twin = graph.node(node.name) if node.name in graph else None
    return twin is not None and (twin.op, twin.origin) == (node.op, node.origin)


def _around(modules: Mapping[str, int], origin: str) -> int | None:
    """Return what the map says of a module, or of the nearest one around it that it knows."""
    while origin and origin not in modules:
        origin = origin.rpartition(".")[0]
    return modules.get(origin)
