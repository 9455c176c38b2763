"""Distillation: all float weights, biases and norms are trained a little towards the original's outputs.

No labels: the original's outputs on calibration samples are the target. A weight's zeros stay zeros, so
that a pattern survives; rates are in units of each weight's own size.
"""

from __future__ import annotations

from compiler.compress.heal.objective import Halves
from compiler.compress.heal.train import Form, Schedule, Whole, train
from compiler.compress.heal.trainable import biases, not_float, too_few, weights
from compiler.compress.weights import stored
from compiler.ir.graph import Graph

NAME = "distill"
RATE = 1e-2  # of a weight's root mean square, a step
BIAS_RATE = 1e-3
SCHEDULE = Schedule(steps=150)


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    return not_float(graph) or too_few(parts)


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with its floating weights trained."""
    forms: dict[str, Form] = {name: Whole(stored(graph, name), BIAS_RATE) for name in biases(graph)}
    for name in weights(graph):
        weight = stored(graph, name)
        forms[name] = Whole(weight, RATE * float(weight.square().mean().sqrt()), keep_zeros=True)
    return train(graph, original, parts, forms, seed, SCHEDULE)
