"""The space of a search: structural offers and precision by segments, and where the two meet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from compiler.compress.apply import Calibrated
from compiler.compress.decision import KEEP, Offer
from compiler.compress.segments import Segment
from compiler.cost.roofline import Roofline
from compiler.ir.graph import Graph
from compiler.search.prior import price_by_node
from compiler.search.space import PRECISION, Link, Overlap, Site, Space
from compiler.target import FLOAT, INT8

Offers = Sequence[tuple[str, Offer]]


def make_space(segments: Sequence[Segment], calibrated: Calibrated, offers: Offers, prior: Roofline) -> Space:
    """Return the sites of a search, structure before precision.

    A segment in which nothing can be int8 has no int8 option. Two sites overlap where they change the
    same operations.
    """
    able = calibrated.inputs | calibrated.outputs
    structure = [Site(offer.site, method, (KEEP, *offer.options)) for method, offer in offers]
    options = [(FLOAT, INT8) if s.nodes & able else (FLOAT,) for s in segments]
    precision = [Site(s.site, PRECISION, o) for s, o in zip(segments, options, strict=True)]
    first = len(structure)
    index = {s.site: first + i for i, s in enumerate(segments)}
    links = [Link(index[s.site], index[to], size) for s in segments for to, size in s.boundary_bytes.items()]
    changed = [*(offer.nodes for _, offer in offers), *(s.nodes for s in segments)]
    overlaps = _overlaps(calibrated.graph, changed, first, prior)
    return Space((*structure, *precision), tuple(sorted(links, key=lambda k: (k.u, k.v))), overlaps)


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
