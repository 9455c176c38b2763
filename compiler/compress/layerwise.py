"""Layer by layer along the graph: new tensors for each, from what reaches it and what it should give.

A layer's twin is the operation of the same name in the original graph. What it should give is the twin's
output on the same calls; what reaches it comes through the layers before it, which have their new
tensors already. All calls take part in all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from compiler.compress.quantize import NAMESPACE
from compiler.compress.track import Track
from compiler.compress.weights import Codes, codes_of, real_bias, real_weight, renew, weighted
from compiler.errors import UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node
from compiler.ir.schema import overload
from compiler.ir.verify import verify

Samples = Sequence[Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Layer:
    """A layer in front of its calls: `wanted` holds the original's outputs, `twin` the original's layer."""

    node: Node
    weight: torch.Tensor
    bias: torch.Tensor
    codes: Codes | None
    twin: torch.Tensor
    inputs: list[torch.Tensor] = field(repr=False)
    wanted: list[torch.Tensor] = field(repr=False)

    def outputs(
        self, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return what the layer gives, with another weight or bias where given."""
        weight, bias = self.weight if weight is None else weight, self.bias if bias is None else bias
        return [linear_call(self.node, x, weight, bias) for x in self.inputs]


@dataclass(frozen=True)
class Renewal:
    """What a layer gets; None stays. `weight` is for a float layer, `codes` and `scale` for a quantised."""

    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    scale: torch.Tensor | None = None


Rule = Callable[[Layer], Renewal | None]


def layerwise(
    graph: Graph, original: Graph, samples: Samples, rule: Rule, names: Collection[str] | None = None
) -> Graph:
    """Return the graph with each layer that has a twin renewed by a rule, in topological order.

    `names` restricts the layers. Operations and names stay. Raises UsageError without samples.
    """
    if not samples:
        raise UsageError("layers are fitted to calibration samples: give at least one")
    chosen = twins(graph, original) & (frozenset(names) if names is not None else graph.nx.nodes)
    editor = Editor(graph)
    track, reference = Track(graph, samples), Track(original, samples, kept=chosen)
    for node in graph.ops():
        if node.name in chosen:
            reference.reach(node.name)
            layer = _layer(editor.graph, original, node, track, reference)
            node = _renewed(editor, layer, rule(layer), track)
        track.run(node)
    result = editor.finish()
    verify(result)
    return result


def twins(graph: Graph, original: Graph) -> frozenset[str]:
    """Return the layers that the original has under the same name, with an output of the same type."""
    return frozenset(
        n.name
        for n in graph.ops()
        if weighted(graph, n)
        and n.name in original
        and weighted(original, original.node(n.name))
        and (original.node(n.name).op, original.node(n.name).types) == (n.op, n.types)
    )


def quantised(graph: Graph) -> bool:
    """Tell whether any value of a graph is stored or passed on as integers of a quantiser."""
    return any(n.op.startswith(NAMESPACE) for n in graph.ops())


def linear_call(node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Run a weighted operation with tensors in the place of its operands; gradients flow."""
    given = {"input": x, "weight": weight, "bias": bias}
    result: torch.Tensor = overload(node.op)(*(given.get(key, operand) for key, operand in node.operands))
    return result


def _layer(graph: Graph, original: Graph, node: Node, track: Track, reference: Track) -> Layer:
    inputs = track.read(node.operand("input"))
    twin = real_weight(original, original.node(node.name))
    weight, bias, codes = real_weight(graph, node), real_bias(graph, node), codes_of(graph, node)
    return Layer(node, weight, bias, codes, twin, inputs, reference.take(node.value))


def _renewed(editor: Editor, layer: Layer, renewal: Renewal | None, track: Track) -> Node:
    if renewal is None:
        return layer.node
    if layer.codes is not None:
        made = _given(input=renewal.codes, scales=renewal.scale)
        if made:
            track.again(renew(editor, layer.codes.node, made, track))
    return renew(editor, layer.node, _given(weight=renewal.weight, bias=renewal.bias), track)


def _given(**tensors: torch.Tensor | None) -> Mapping[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}
