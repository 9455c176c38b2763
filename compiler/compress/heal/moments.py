"""Para-normalisation as a healing step: each layer's channels get the original's mean and deviation."""

from __future__ import annotations

from compiler.compress.heal.objective import Halves
from compiler.compress.layerwise import twins
from compiler.compress.para_norm import renormalise
from compiler.ir.graph import Graph

NAME = "para_norm"


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    return None if twins(graph, original) else "no layer has the original's name and output"


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with the original's moments."""
    return renormalise(graph, original, parts.fit)
