"""The sums of branches that a merge folded into one operation, and the same model with some of them left.

Merging is exact over the reals, but what is merged has other ranges: a kernel that is the sum of three may
round worse in int8 than the three do, each with scales of its own (arXiv 2212.01593 for RepVGG). So a sum
that was folded can be taken back where its result is to be int8; each branch stays merged in itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from compiler.ir.graph import Graph
from compiler.merge.attempt import Attempt, Outcome
from compiler.merge.whole import merge

SUMS = ("aten.add.Tensor", "aten.sub.Tensor")


@dataclass(frozen=True)
class Branches:
    """What a merge started from, and the sites at which it folded a sum."""

    source: Graph
    sites: tuple[str, ...]
    table: LatencyTable | None = None
    prior: Roofline = PRIOR

    def kept(self, sites: Collection[str]) -> Graph:
        """Return the merged graph with the sums at some sites left as they are."""
        return merge(self.source, self.table, self.prior, apart=frozenset(sites))[0]

    def nodes(self, graph: Graph, site: str) -> frozenset[str]:
        """Return the operations of a merged graph that stand at a site."""
        return frozenset(n.name for n in graph.ops() if _within(n.origin, site))


def folded_branches(
    source: Graph, attempts: Collection[Attempt], table: LatencyTable | None, prior: Roofline
) -> Branches:
    """Return the sums of two computed values that were folded, by what the merge says it did."""
    merged = [a for a in attempts if a.outcome is Outcome.MERGED and a.site]
    sites = (a.site for a in merged if any(_sums(source, name) for name in a.nodes))
    return Branches(source, tuple(dict.fromkeys(sites)), table, prior)


def _sums(graph: Graph, name: str) -> bool:
    if name not in graph or graph.node(name).op not in SUMS:
        return False
    terms = [v for _, v in graph.node(name).values()]
    return len(terms) > 1 and all(graph.constant(v) is None for v in terms)


def _within(origin: str, site: str) -> bool:
    return origin == site or origin.startswith(f"{site}.")
