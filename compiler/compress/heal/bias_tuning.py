"""Bias tuning: biases and the affine part of norms are trained towards the original's outputs.

They fold into what is there already, so they cost no time on the device, quantised or not. With fewer
than 400 images the tuning learns the samples, so it is refused. Sources: CalibTIP, Hubara et al., arXiv
2006.10518 (its step 4: all biases but the last layer's); PERP, Zimmer et al., arXiv 2312.15230.
"""

from __future__ import annotations

from compiler.compress.heal.objective import Halves
from compiler.compress.heal.train import Schedule, Whole, train
from compiler.compress.heal.trainable import biases, too_few
from compiler.compress.weights import stored
from compiler.ir.graph import Graph

NAME = "bias_tuning"
RATE = 5e-3
SCHEDULE = Schedule(steps=200)


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    return too_few(parts) or (None if biases(graph) else "no layer has a bias and no norm an affine part")


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with tuned biases and norms."""
    forms = {name: Whole(stored(graph, name), RATE) for name in biases(graph)}
    return train(graph, original, parts, forms, seed, SCHEDULE)
