"""AdaQuant as a healing step: the codes, scales and biases of quantised layers fitted to the original's."""

from __future__ import annotations

from compiler.compress.adaquant import adaquant
from compiler.compress.heal.objective import Halves
from compiler.compress.layerwise import twins
from compiler.compress.weights import codes_of
from compiler.ir.graph import Graph

NAME = "adaquant"


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    able = any(codes_of(graph, graph.node(name)) is not None for name in twins(graph, original))
    return None if able else "no layer of the original has its weights in codes"


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with fitted codes."""
    return adaquant(graph, original, parts.fit, seed=seed)
