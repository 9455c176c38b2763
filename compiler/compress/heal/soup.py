"""A greedy soup of healing runs: the mean of distilled graphs that differ by the seed of their batches.

They start from the same weights, so their mean is a model of its own, and it costs nothing to run. The
graph as it is takes part; the soup is never further from the original on the judging half than the best
of them. Source: Model soups, Wortsman et al., arXiv 2203.05482 (`compiler.compress.average`).
"""

from __future__ import annotations

from compiler.compress.average import StateDict, Untrained, greedy_soup
from compiler.compress.heal import distill
from compiler.compress.heal.objective import Halves, cost, reference
from compiler.compress.heal.train import with_constants
from compiler.ir.graph import Graph

NAME = "soup"
RUNS = 3

refusal = distill.refusal


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the greedy soup of the graph and of a few runs of distillation from it."""
    wanted = reference(original, parts.judge)
    runs = [graph, *(distill.heal(graph, original, parts, seed + 1 + run) for run in range(RUNS))]

    def score(state: StateDict) -> float:
        return -cost(with_constants(graph, dict(state)), wanted, parts.judge)

    names = ["the graph as it is", *(f"run {run + 1}" for run in range(RUNS))]
    return with_constants(graph, greedy_soup([_state(g) for g in runs], score, Untrained(), names).state)


def _state(graph: Graph) -> StateDict:
    return {
        name: constant.tensor for name, constant in graph.constants.items() if constant.tensor is not None
    }
