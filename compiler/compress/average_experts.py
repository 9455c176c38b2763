r"""E experts under a random partition replaced by one with their mean weights. LOSSY.

    :math:`y = f_{\bar\theta}(x), \qquad \bar\theta = \frac1E \sum_e \theta_e`   on all rows at once

There is no one function to match: the routed model draws another partition at each call. The mean
is exact where the experts coincide; with a relative spread :math:`\varepsilon` between them it is
off by order :math:`\varepsilon` against one draw, and :math:`\varepsilon^2` against the mean of all draws
(Taylor). So the rewrite is proved first and measured then:

1. with the mean weights put into every expert, the routed graph must give the one expert's values, for
   several draws, in float64: the partition is one of rows, is undone, and no expert mixes rows;
2. the outputs of the routed graph as it was are compared with the averaged one's, over several draws.

Between the two, the statistics of BatchNorms behind an averaged weight are gathered again, unless all
experts were alike. Source: Experts Weights Averaging, arXiv 2308.06093.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from compiler.compress.batch_statistics import BATCH_NORM, reestimate_graph
from compiler.compress.deviation import Deviation, Outputs, deviations, floating
from compiler.compress.experts import Experts, find_experts
from compiler.compress.widen_expert import equalise, stacked, widen_expert
from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.ir.schema import draws
from compiler.ir.verify import verify
from compiler.merge.attempt import Exactness, Refusal

DRAWS = 8
PROOF_DRAWS = 2
TOLERANCE = 1e-9  # of float64 against float64, relative to the largest value


@dataclass(frozen=True)
class AveragedGroup:
    """One set of experts that became one.

    `site` is the module path of what they feed; `spread` is the root mean square distance of the
    experts' weights from their mean over that of the mean: 0 where they coincide.
    """

    site: str
    exit: str
    experts: int
    weights: int
    spread: float


@dataclass(frozen=True)
class AveragedExperts:
    """The averaged graph and what it costs, measured.

    `deviation` compares it with the routed graph, over all draws and batches; `between_draws` compares
    the routed graph's later draws with its first: how much it differs from itself. `routed` holds the
    outputs of each call of each draw, `found` the averaged graph's for the same calls.
    """

    graph: Graph
    groups: tuple[AveragedGroup, ...]
    batch_norms: tuple[str, ...]
    draws: int
    deviation: tuple[Deviation, ...]
    between_draws: tuple[Deviation, ...]
    routed: tuple[Outputs, ...]
    found: tuple[Outputs, ...]
    exactness: Exactness = Exactness.LOSSY


def average_experts(
    graph: Graph, batches: Sequence[Sequence[torch.Tensor]], count: int = DRAWS
) -> AveragedExperts:
    """Replace all experts of a canonical graph by their means, and measure what that does.

    Args:
        graph: the imported graph behind the passes, random draws and all.
        batches: each the flat inputs of a call, in `graph.inputs()` order.
        count: how many partitions to draw for the measurement, 2 at least.

    Raises UnsupportedModelError, with the reason and the node, where the graph has no experts that
    can be averaged or draws random numbers for something else; UsageError without batches.
    """
    if not batches:
        raise UsageError("averaging experts is lossy and is measured on batches: give some")
    try:
        found = find_experts(graph)
        averaged, exits = _replaced(graph, found)
        _prove(graph, averaged, exits, found, batches[0])
    except Refusal as refusal:
        where = f": node {refusal.node!r}{_origin(graph, refusal.node)}" if refusal.node else ""
        raise UnsupportedModelError(f"the experts cannot be averaged: {refusal.reason}{where}") from refusal
    groups = tuple(_group(graph, experts) for experts in found)
    norms = _stale_norms(graph, averaged) if any(g.spread for g in groups) else ()
    averaged = reestimate_graph(averaged, norms, batches)
    own = [floating(evaluate(averaged, batch, torch.float64)) for batch in batches]
    routed = [call for seed in range(count) for call in _drawn(graph, batches, seed)]
    first, later = routed[: len(batches)] * (count - 1), routed[len(batches) :]
    return AveragedExperts(
        averaged,
        groups,
        norms,
        count,
        deviations(routed, own * count),
        deviations(first, later),
        tuple(routed),
        tuple(own * count),
    )


def _origin(graph: Graph, name: str) -> str:
    origin = graph.node(name).origin if name in graph else ""
    return f" in module {origin!r}" if origin else ""


def _drawn(graph: Graph, batches: Sequence[Sequence[torch.Tensor]], seed: int) -> Iterator[Outputs]:
    """Yield the routed graph's outputs for each batch, from the draws of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in batches:
            yield floating(evaluate(graph, batch, torch.float64))


def _replaced(graph: Graph, found: Sequence[Experts]) -> tuple[Graph, dict[Value, Value]]:
    """Return the graph with one widened expert for each set, and the new exits by the old ones."""
    editor = Editor(graph)
    exits: dict[Value, Value] = {}
    for experts in found:
        exits[experts.exit] = widen_expert(editor, graph, experts, exits)
        editor.replace_uses(experts.exit, exits[experts.exit])
    editor.remove_unread([experts.exit.node for experts in found])
    result = editor.finish()
    left = next((n for n in result.ops() if draws(n)), None)
    if left is not None:
        raise Refusal("random numbers are drawn for something other than a partition into experts", left.name)
    verify(result)
    return result, exits


def _prove(
    graph: Graph,
    averaged: Graph,
    exits: Mapping[Value, Value],
    found: Sequence[Experts],
    batch: Sequence[torch.Tensor],
) -> None:
    """Raise Refusal unless experts of equal weights are one expert on all rows, whatever is drawn."""
    editor = Editor(graph)
    for experts in found:
        equalise(editor, graph, experts)
    routed = _watching(editor.finish(), list(exits))
    wanted = evaluate(_watching(averaged, list(exits.values())), batch, torch.float64)
    for seed in range(PROOF_DRAWS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            got = evaluate(routed, batch, torch.float64)
        for value, y, one in zip(exits, got, wanted, strict=True):
            error = float((y - one).abs().max() / one.abs().max().clamp_min(1e-300))
            if not error <= TOLERANCE:
                reason = (
                    f"with equal weights in all experts the values still move by {error:.2g} of their size "
                    "from draw to draw: an expert mixes its rows"
                )
                raise Refusal(reason, value.node)


def _watching(graph: Graph, values: Sequence[Value]) -> Graph:
    """Return the graph with these values as its results."""
    editor = Editor(graph)
    operands = tuple((f"r{i}", value) for i, value in enumerate(values))
    editor.update(Node("output", Kind.OUTPUT, operands=operands))
    return editor.finish()


def _group(graph: Graph, experts: Experts) -> AveragedGroup:
    distance = signal = 0.0
    for together in experts.constants:
        stack = stacked(graph, together)
        mean = stack.mean(0)
        distance += float((stack - mean).abs().square().sum()) / experts.count
        signal += float(mean.abs().square().sum())
    spread = math.sqrt(distance / signal) if signal else (math.inf if distance else 0.0)
    node = graph.producer(experts.exit)
    return AveragedGroup(node.origin, node.name, experts.count, len(experts.constants), spread)


def _stale_norms(graph: Graph, averaged: Graph) -> tuple[str, ...]:
    """Return the BatchNorms that read, at any remove, something that the averaging made."""
    reached = {n.name for n in averaged.nodes() if n.name not in graph}
    work = list(reached)
    while work:
        for user in averaged.users(work.pop()):
            if user.name not in reached:
                reached.add(user.name)
                work.append(user.name)
    return tuple(n.name for n in averaged.ops() if n.name in reached and n.op == BATCH_NORM)
