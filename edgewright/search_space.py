"""The space of a search: structural offers and precision by segments, and where the two meet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compiler.compress.decision import KEEP, Offer
from compiler.compress.keep_branches import KEPT
from compiler.compress.keep_branches import METHOD as BRANCHES
from compiler.compress.rounding import Steps
from compiler.compress.segments import Segment
from compiler.cost.roofline import Roofline
from compiler.ir.graph import Graph
from compiler.merge.branches import Branches
from compiler.plan import Decision
from compiler.search.prior import price_by_node
from compiler.search.space import INT8_KEPT, PRECISION, Link, Overlap, Site, Space
from compiler.target import FLOAT, INT8

Offers = Sequence[tuple[str, Offer]]
MOST_SITES = 12  # of structural decisions


@dataclass(frozen=True)
class Precisions:
    """The operations that can be run in each precision but float32, and how int8 and int4 are rounded.

    `branches` are those that the merge has summed, which int8 may leave apart.
    """

    able: Mapping[str, frozenset[str]] = field(default_factory=dict)
    rounding: Steps = ()
    branches: Branches | None = None


def heaviest(graph: Graph, offers: Offers, prior: Roofline) -> Offers:
    """Return the `MOST_SITES` offers whose operations take most by the prior, in their order.

    What an option saves is known when its graph is made, which takes seconds for each: the bound of what
    a site can save is what its operations take.
    """
    work = [price_by_node(graph, prior, offer.nodes) for _, offer in offers]
    kept = set(sorted(range(len(offers)), key=lambda i: -work[i])[:MOST_SITES])
    return tuple(offer for i, offer in enumerate(offers) if i in kept)


def make_space(
    segments: Sequence[Segment],
    graph: Graph,
    offers: Offers,
    prior: Roofline,
    precisions: Precisions,
) -> Space:
    """Return the sites of a search, structure before precision.

    A segment has a precision where some operation of it can be run in it. Two sites overlap where they
    change the same operations.
    """
    structure = [Site(offer.site, method, (KEEP, *offer.options)) for method, offer in offers]
    apart = _apart(segments, graph, precisions)
    precision = [
        Site(s.site, PRECISION, (FLOAT, *_options(s, precisions), *([INT8_KEPT] if s.site in apart else [])))
        for s in segments
    ]
    first = len(structure)
    index = {s.site: first + i for i, s in enumerate(segments)}
    links = [Link(index[s.site], index[to], size) for s in segments for to, size in s.boundary_bytes.items()]
    changed = [*(offer.nodes for _, offer in offers), *(s.nodes for s in segments)]
    overlaps = _overlaps(graph, changed, first, prior)
    sites = (*structure, *precision)
    return Space(
        sites,
        tuple(sorted(links, key=lambda k: (k.u, k.v))),
        overlaps,
        precisions.rounding,
        tuple(apart.items()),
    )


def _options(segment: Segment, precisions: Precisions) -> list[str]:
    return [p for p, able in precisions.able.items() if segment.nodes & able]


def _apart(
    segments: Sequence[Segment], graph: Graph, precisions: Precisions
) -> dict[str, tuple[Decision, ...]]:
    """Return the decisions that leave branches apart, by the segments that can be int8 and have some."""
    branches, found = precisions.branches, dict[str, tuple[Decision, ...]]()
    if branches is None:
        return found
    left = list(branches.sites)  # a site that lies in two segments is the first one's
    for segment in segments:
        here = [s for s in left if branches.nodes(graph, s) & segment.nodes]
        left = [s for s in left if s not in here]
        if here and INT8 in _options(segment, precisions):
            found[segment.site] = tuple(Decision(s, BRANCHES, KEPT) for s in here)
    return found


def _overlaps(
    graph: Graph, changed: Sequence[frozenset[str]], structural: int, prior: Roofline
) -> tuple[Overlap, ...]:
    """Return the overlaps of structural sites, which come first, among each other and with segments."""
    whole = prior.total(graph, graph.ops())
    work = [price_by_node(graph, prior, names) for names in changed]
    found = []
    for u, v in itertools.combinations(range(len(changed)), 2):
        if u < structural and (both := changed[u] & changed[v]) and work[u] and work[v]:
            shared = price_by_node(graph, prior, both)
            found.append(Overlap(u, v, shared * whole / (work[u] * work[v])))
    return tuple(found)
