r"""A graph run with gradients to some of its constants, quantised operations included.

A value that passes through quantise and dequantise keeps its rounded number and takes the gradient of
what was rounded, except where it was clipped (the straight-through estimator, Bengio et al., arXiv
1308.3432): :math:`\hat x = x + \mathrm{stop}(\mathrm{dq}(\mathrm{q}(x)) - x)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from compiler.compress.heal.objective import Outputs, floating
from compiler.compress.quantize import NAMESPACE
from compiler.compress.weights import stored
from compiler.evaluate import run_node
from compiler.ir.dims import bind, resolve_operand
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.schema import draws

_QUANTIZE, _DEQUANTIZE = NAMESPACE + "quantize", NAMESPACE + "dequantize"


class Differentiable:
    """A graph whose named constants are arguments; what the others alone decide is computed once."""

    def __init__(self, graph: Graph, free: Collection[str]) -> None:
        """Take the names of the constants that will be given at each call."""
        self.graph = graph
        self._known: dict[Value, Any] = {
            Value(name): stored(graph, name) for name in graph.constants if name not in free
        }
        self._rest = [node for node in graph.ops() if not self._fold(node)]

    def __call__(self, sample: Sequence[torch.Tensor], given: Mapping[str, torch.Tensor]) -> Outputs:
        """Return the floating outputs for flat inputs, with gradients to the tensors given."""
        inputs = self.graph.inputs()
        bindings = bind([n.type for n in inputs], [t.shape for t in sample])
        values = {**self._known, **{n.value: t for n, t in zip(inputs, sample, strict=True)}}
        values |= {Value(name): tensor for name, tensor in given.items()}
        real: dict[Value, torch.Tensor] = {}
        for node in self._rest:
            if node.op.startswith(NAMESPACE):
                _straight_through(node, values, real, bindings)
            else:
                run_node(node, values, bindings)
        return floating([resolve_operand(o, values, bindings) for _, o in self.graph.output.operands])

    def _fold(self, node: Node) -> bool:
        reads = [v for _, v in node.values()]
        if not reads or draws(node) or not all(v in self._known for v in reads):
            return False
        with torch.no_grad():
            run_node(node, self._known, {})
        return True


def _straight_through(
    node: Node, values: dict[Value, Any], real: dict[Value, torch.Tensor], bindings: Mapping[str, Any]
) -> None:
    """Run a quantise or dequantise; `real` remembers what each integer value was rounded from."""
    source = node.operand("input")
    with torch.no_grad():
        run_node(node, values, bindings)
    if node.op.startswith(_QUANTIZE):
        real[node.value] = values[source]
    elif node.op.startswith(_DEQUANTIZE) and source in real:
        x, rounded = real[source], values[node.value]
        scale = node.operand("scale", node.operand("scales"))
        step = values[scale] if isinstance(scale, Value) else scale
        inside = (rounded - x).abs().detach() <= step
        values[node.value] = rounded + (x - x.detach()) * inside
