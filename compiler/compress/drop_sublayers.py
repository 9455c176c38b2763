"""Whole sublayers left out: attention, feed-forward, and the residual blocks of convolutional networks.

A branch is left out by reading the residual input in the place of the sum; the outputs behind it are then
those of the shorter network, bit for bit. One greedy order is followed: of all branches that are left,
the one goes whose absence moves the outputs of the *original* least. Leaving out is far from additive, so
the options of the one site are the prefixes of that order, `1`, `2`, ...: the cost of each is then that of
exactly what it leaves out.

The order is found on the graph as the method gets it, on the first samples only: with n branches, k of
them left out, it takes k n - k (k - 1) / 2 runs of the rest of the graph behind a branch.
Source: FinerCut, arXiv 2405.18218, with the Jensen-Shannon divergence the right way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.compress.decision import Offer, Sample, Setting
from compiler.compress.observe import bindings, run_all, run_some
from compiler.compress.output_distance import distance_to
from compiler.compress.residuals import Residual, residuals
from compiler.compress.sites import accepted
from compiler.evaluate import evaluate
from compiler.ir.digest import content_digest
from compiler.ir.dims import resolve_operand
from compiler.ir.edit import Editor
from compiler.ir.graph import Constant, Graph, Node
from compiler.passes.dead_code import dead_code

METHOD = "drop_sublayers"
SITE = "model"
SAMPLES = 64  # the order is found on so many
ALL_UP_TO = 12  # of more branches than this, at most half are left out


@dataclass(frozen=True)
class Drop:
    """One step of the order: the addition whose branch goes, and how far the outputs are then."""

    add: str
    origin: str
    distance: float


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return one site for the model, with the numbers of branches that may be left out."""
    found = residuals(graph)
    if not found or not setting.samples:
        return ()
    count = len(found) if len(found) <= ALL_UP_TO else max(ALL_UP_TO, (len(found) + 1) // 2)
    nodes = frozenset[str]().union(*(r.nodes | {r.add} for r in found))
    return (Offer(SITE, tuple(str(k) for k in range(1, count + 1)), nodes),)


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph without the first branches of the greedy order."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    for step in greedy_order(graph, setting.samples, int(chosen[SITE])) if chosen else ():
        graph = without(graph, step.add)
    return graph


def without(graph: Graph, add: str) -> Graph:
    """Return the graph with a residual sum read as its residual input."""
    (found,) = (r for r in residuals(graph) if r.add == add)
    editor = Editor(graph)
    editor.replace_uses(graph.node(add).value, found.skip)
    return dead_code(editor.finish())


def greedy_order(graph: Graph, samples: Sequence[Sample], count: int) -> tuple[Drop, ...]:
    """Return the first `count` steps of the order, fewer where fewer branches are left.

    The steps already found for the same graph and samples are kept, so that a longer prefix costs only
    its further steps.
    """
    used = samples[:SAMPLES]
    key = (content_digest(graph), *(Constant(t).digest for sample in used for t in sample))
    known = _FOUND.pop(key, ())
    if len(known) < count:
        known = _continued(graph, used, known, count)
    _FOUND[key] = known
    while len(_FOUND) > _REMEMBERED:
        _FOUND.pop(next(iter(_FOUND)))
    return known[:count]


_REMEMBERED = 8
_FOUND: dict[tuple[str, ...], tuple[Drop, ...]] = {}


def _continued(
    graph: Graph, samples: Sequence[Sample], known: tuple[Drop, ...], count: int
) -> tuple[Drop, ...]:
    distance = distance_to(graph, [evaluate(graph, sample) for sample in samples])
    for step in known:
        graph = without(graph, step.add)
    while len(known) < count and (left := residuals(graph)):
        moved = [0.0] * len(left)
        behind = [_behind(graph, r) for r in left]
        for index, sample in enumerate(samples):
            values, bound = run_all(graph, sample), bindings(graph, sample)
            for i, residual in enumerate(left):
                changed = values | {graph.node(residual.add).value: values[residual.skip]}
                run_some(behind[i], changed, bound)
                results = [resolve_operand(o, changed, bound) for _, o in graph.output.operands]
                moved[i] += distance(index, results)
        best = min(range(len(left)), key=lambda i: (moved[i] != moved[i], moved[i]))  # NaN comes last
        known = (*known, Drop(left[best].add, left[best].origin, moved[best]))
        graph = without(graph, left[best].add)
    return known


def _behind(graph: Graph, residual: Residual) -> list[Node]:
    """Return the operations that read a residual sum, at any remove."""
    reached = {residual.add}
    found = []
    for node in graph.ops():
        if any(v.node in reached for _, v in node.values()):
            reached.add(node.name)
            found.append(node)
    return found
