r"""Cross-layer equalisation: channels of two layers in a row share their ranges, so that int8 fits both.

Through a homogeneous activation, :math:`f(s x) = s f(x)` for :math:`s > 0`, so that

    :math:`W_2 f(W_1 x + b_1) = (W_2 S) f(S^{-1} W_1 x + S^{-1} b_1)`

for any positive diagonal S. With :math:`r_1` the largest weight of each output channel of the first
layer, and :math:`r_2` of each input channel of the second,

    :math:`s_i = \sqrt{r_{1,i} / r_{2,i}}`

makes both :math:`\sqrt{r_{1,i} r_{2,i}}`. Layers in a chain (a depthwise convolution is second to one and
first to the next) are gone through until no scale moves. Equal over the reals. Source: Nagel et al.,
"Data-Free Quantization through Weight Equalization and Bias Correction", arXiv 1906.04721, equation 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from compiler.compress.weights import along, channel_axis, renew, weighted
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node
from compiler.ir.verify import verify

SWEEPS = 40
SETTLED = 1e-3  # the largest relative move of a scale in the last sweep
WIDEST = 1e4  # a nearly silent channel is not blown up further than this

HOMOGENEOUS = frozenset(
    f"aten.{name}.default"
    for name in ("relu", "leaky_relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
)


@dataclass(frozen=True)
class Pair:
    """Two layers by name, the second reading the first through homogeneous operations alone."""

    first: str
    second: str


def pairs(graph: Graph) -> tuple[Pair, ...]:
    """Return the pairs of layers that can be equalised, in topological order."""
    return tuple(_pairs(graph))


def equalize(graph: Graph) -> Graph:
    """Return the graph with the ranges of its pairs' channels made equal; float outputs stay (REAL).

    Weights are scaled in float64 and rounded once. A channel that is zero on either side is left.
    """
    found = pairs(graph)
    names = dict.fromkeys(name for pair in found for name in (pair.first, pair.second))
    weights, biases = _wide(graph, names, "weight"), _wide(graph, (p.first for p in found), "bias")
    for _ in range(SWEEPS):
        moves = [_balance(graph, pair, weights, biases) for pair in found]
        if max(moves, default=0.0) < SETTLED:
            break
    editor = Editor(graph)
    for name in names:
        tensors = {"weight": weights[name], "bias": biases.get(name)}
        dtype = graph.type_of(graph.node(name).operand("weight")).dtype
        renew(editor, graph.node(name), {k: t.to(dtype) for k, t in tensors.items() if t is not None})
    result = editor.finish()
    verify(result)
    return result


def _pairs(graph: Graph) -> Iterator[Pair]:
    for node in graph.ops():
        if not _scalable(graph, node):
            continue
        value = node.value
        while len(uses := graph.uses(value)) == 1 and uses[0][0].op in HOMOGENEOUS:
            value = uses[0][0].value
        if len(uses) != 1:
            continue
        reader, path = uses[0]
        if path == "input" and _scalable(graph, reader) and channel_axis(reader) == channel_axis(node):
            yield Pair(node.name, reader.name)


def _scalable(graph: Graph, node: Node) -> bool:
    """Tell whether an operation has a float weight of its own."""
    plain = weighted(graph, node) and graph.constant(node.operand("weight")) is not None
    return plain and len(graph.uses(node.operand("weight"))) == 1


def _wide(graph: Graph, names: Iterable[str], key: str) -> dict[str, torch.Tensor]:
    stored = {name: graph.constant(graph.node(name).operand(key)) for name in names}
    return {name: tensor.double() for name, tensor in stored.items() if tensor is not None}


def _balance(
    graph: Graph, pair: Pair, weights: dict[str, torch.Tensor], biases: dict[str, torch.Tensor]
) -> float:
    """Scale the two layers and return the largest relative move."""
    groups = graph.node(pair.second).operand("groups", 1)
    own = weights[pair.first].flatten(1).abs().amax(1)
    other = _by_input(weights[pair.second], groups).abs().amax((1, 3)).flatten()
    scale = (own / other).sqrt()
    live = (own > 0) & (other > 0)
    scale = torch.where(live, scale.clamp(1 / WIDEST, WIDEST), 1.0)
    weights[pair.first] = weights[pair.first] / along(scale, weights[pair.first])
    if pair.first in biases:
        biases[pair.first] = biases[pair.first] / scale
    weights[pair.second] = scale_inputs(weights[pair.second], scale, groups)
    return float((scale - 1).abs().max())


def scale_inputs(weight: torch.Tensor, scale: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Return a weight [out, in / groups, ...] with each input channel multiplied."""
    wide = _by_input(weight, groups) * scale.reshape(groups, 1, -1, 1)
    return wide.reshape(weight.shape)


def _by_input(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a weight as [groups, out / groups, in / groups, taps]."""
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
