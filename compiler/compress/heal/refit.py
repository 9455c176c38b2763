r"""Block by block, a layer is refitted to what it gave in the original, from what reaches it now.

For a layer whose inputs were pruned, factored or otherwise moved upstream, and whose output has its
twin's shape, the least-squares change of its weight and bias is added:

    :math:`[\Delta W, \Delta b] = \mathrm{refit}(X', Y - f(W; X'))`

so that the damping pulls towards the weight at hand. Three rows of four are fitted, the rest judges: a
layer is changed where its error falls there too. A weight with a pattern of zeros is left. The refit
itself is `compiler.compress.least_squares`.
"""

from __future__ import annotations

import torch

from compiler.compress.heal.objective import Halves
from compiler.compress.heal.trainable import not_float
from compiler.compress.layerwise import Layer, Renewal, layerwise, twins
from compiler.compress.least_squares import refit
from compiler.compress.weights import channel_axis, channel_rows, input_rows
from compiler.ir.graph import Graph

NAME = "refit"
ROWS = 20  # a fitted layer sees at most so many rows for each of its inputs
LEAST = 3  # and at least so many
SPARSE = 0.1


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    return not_float(graph) or (
        None if twins(graph, original) else "no layer has the original's name and output"
    )


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with each layer refitted that gains by it."""
    return layerwise(graph, original, parts.fit, refitted)


def refitted(layer: Layer) -> Renewal | None:
    """Return the refitted weight and bias, None where they are no better on rows that were not fitted."""
    sparse = float((layer.weight == 0).double().mean()) >= SPARSE
    if layer.codes is not None or layer.node.operand("groups", 1) != 1 or sparse:
        return None
    x, error = _rows(layer)
    held = torch.arange(len(x)) % 4 == 3
    if len(x) - int(held.sum()) < LEAST * (x.shape[1] + 1) or not bool(error.any()):
        return None
    weight, bias = refit(x[~held], error[~held])
    left = error[held] - x[held].double() @ weight.T - bias
    if float(left.square().sum()) >= float(error[held].square().sum()):
        return None
    moved = layer.weight.double() + weight.reshape(layer.weight.shape)
    return Renewal(
        weight=moved.to(layer.weight.dtype), bias=(layer.bias.double() + bias).to(layer.bias.dtype)
    )


def _rows(layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of inputs and of what is missing in the output, evenly drawn from all calls."""
    kernel, axis = tuple(layer.weight.shape[2:]), channel_axis(layer.node)
    each = ROWS * (layer.weight.flatten(1).shape[1] + 1) // len(layer.inputs) + 1
    found = []
    for x, y, wanted in zip(layer.inputs, layer.outputs(), layer.wanted, strict=True):
        rows = input_rows(layer.node, x, kernel)
        error = channel_rows(wanted.double() - y.double(), axis)
        step = max(len(rows) // each, 1)
        found.append((rows[::step], error[::step]))
    inputs, errors = zip(*found, strict=True)
    return torch.cat(inputs), torch.cat(errors)
