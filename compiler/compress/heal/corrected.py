"""Analytic bias correction as a healing step: each layer's mean error goes into its bias."""

from __future__ import annotations

from compiler.compress.bias_correction import correct_biases
from compiler.compress.heal.objective import Halves
from compiler.compress.layerwise import twins
from compiler.ir.graph import Graph

NAME = "bias_correction"


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    return None if twins(graph, original) else "no layer has the original's name and output"


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with corrected biases."""
    return correct_biases(graph, original, parts.fit)
