r"""Routers of experts: a top-k over gates that chooses rows of tables of weights.

    gates [..., E] -> topk(k) -> indices [..., k] -> table [E, ...] [indices]

Every reader of the indices must take rows of a constant table whose first axis counts the experts, so
that the experts are known to be those rows. What does anything else with an index (a one-hot, a
comparison) is no router here. The indices may be reshaped on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from compiler.compress.decision import Sample
from compiler.compress.observe import observed
from compiler.ir.graph import Graph, Kind, Node, Value

TOP_K = "aten.topk.default"
_LOOKUPS = {"aten.index.Tensor": "self", "aten.embedding.default": "weight"}


@dataclass(frozen=True)
class Router:
    """A `topk` node, the gates it chooses among, and the look-ups of tables by its indices."""

    site: str
    node: Node
    gates: Value
    experts: int
    k: int
    lookups: tuple[tuple[Node, str], ...]  # with the operand that holds the table

    @property
    def members(self) -> frozenset[str]:
        """The names of the router and its look-ups."""
        return frozenset({self.node.name, *(n.name for n, _ in self.lookups)})


def routers(graph: Graph) -> tuple[Router, ...]:
    """Return the routers of a graph in topological order, each with a site of its own."""
    found: list[Router] = []
    for node in graph.ops():
        if node.op == TOP_K and (router := _router(graph, node)):
            earlier = sum(r.site.partition("/")[0] == router.site for r in found)
            site = f"{router.site}/{earlier + 1}" if earlier else router.site
            found.append(Router(site, node, router.gates, router.experts, router.k, router.lookups))
    return tuple(found)


def usage(graph: Graph, router: Router, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how often each expert was chosen, and the mean gate it was chosen with (0 where never)."""
    counts = torch.zeros(router.experts, dtype=torch.int64)
    weight = torch.zeros(router.experts, dtype=torch.float64)
    gates, chosen = (Value(router.node.name, i) for i in (0, 1))
    for values in observed(graph, [gates, chosen], samples):
        indices = values[chosen].reshape(-1)
        counts += torch.bincount(indices, minlength=router.experts)
        weight += torch.bincount(indices, values[gates].reshape(-1), router.experts)
    return counts, weight / counts.clamp_min(1)


def _router(graph: Graph, node: Node) -> Router | None:
    gates: Value = node.operand("self")
    type_, dim = graph.type_of(gates), node.operand("dim")
    experts, k = type_.shape[dim], node.operand("k")
    lookups = tuple(_lookup(graph, user, path, experts) for user, path in _uses(graph, Value(node.name, 1)))
    last = dim in (-1, type_.rank - 1)
    if not last or not isinstance(experts, int) or not node.operand("largest") or not lookups:
        return None
    found = tuple(lookup for lookup in lookups if lookup is not None)
    if len(found) < len(lookups):
        return None
    return Router(_origin(graph, gates), node, gates, experts, k, found)


def _uses(graph: Graph, value: Value) -> Iterator[tuple[Node, str]]:
    """Yield the readers of indices, with those of the same indices in another shape in their place."""
    for user, path in graph.uses(value):
        if user.op == "aten.reshape.default":
            yield from _uses(graph, user.value)
        else:
            yield user, path


def _lookup(graph: Graph, node: Node, path: str, experts: object) -> tuple[Node, str] | None:
    """Return a reader of the indices that takes rows of a table of experts, else None."""
    key = _LOOKUPS.get(node.op)
    table = graph.constant(node.operand(key)) if key else None
    if key is None or table is None or not path.startswith("indices") or table.shape[0] != experts:
        return None
    alone = node.op != "aten.index.Tensor" or len(node.operand("indices")) == 1
    return (node, key) if alone and len(graph.uses(node.operand(key))) == 1 else None


def _origin(graph: Graph, value: Value) -> str:
    """Return the module path of the nearest operation at or before a value that has one."""
    node = graph.producer(value)
    while node.kind is Kind.OP:
        if node.origin:
            return node.origin
        node = graph.producer(next(v for _, v in node.values()))
    return "model"
