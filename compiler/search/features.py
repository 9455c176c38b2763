"""A model's own features: what its last weighted layer reads, one row for each sample.

Walking back from the first floating output through operations of one input, the first that has a
stored weight of two dimensions or more (a linear layer, a convolution) reads the features. Tokens and
pixels are averaged. Where there is no such layer, or its input has no dimension of samples, the output
itself is the feature.
"""

from __future__ import annotations

import torch

from compiler.errors import UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Value


def with_features(graph: Graph) -> Graph:
    """Return the graph with the features as one more, last result; raises UsageError without an output."""
    editor = Editor(graph)
    results = [operand for _, operand in graph.output.operands]
    value = feature_value(graph)
    editor.remove("output")
    editor.output([*results, value])
    return editor.finish()


def feature_value(graph: Graph) -> Value:
    """Return the value that holds the features."""
    outputs = [v for _, v in graph.output.values() if graph.type_of(v).dtype.is_floating_point]
    if not outputs:
        raise UsageError("the model has no floating output, so it has no features to select samples by")
    value = outputs[0]
    while graph.producer(value).kind is Kind.OP:
        node = graph.producer(value)
        computed = [v for _, v in node.values() if _computed(graph, v)]
        if len(computed) != 1:
            break
        if _weighted(graph, node):
            return computed[0] if graph.type_of(computed[0]).rank > 1 else outputs[0]
        value = computed[0]
    return outputs[0]


def feature_rows(values: torch.Tensor, samples: int) -> torch.Tensor:
    """Return features [samples, d]: tokens [n, T, d] or [n T, d] and pixels [n, d, H, W] averaged."""
    if values.dim() > 1 and values.shape[0] > samples:
        values = values.reshape(samples, -1, *values.shape[1:])
    if values.dim() == 3:
        values = values.mean(1)
    return values.flatten(2).mean(2) if values.dim() > 3 else values.reshape(samples, -1)


def _computed(graph: Graph, value: Value) -> bool:
    return graph.producer(value).kind in (Kind.OP, Kind.INPUT)


def _weighted(graph: Graph, node: Node) -> bool:
    stored = [v for _, v in node.values() if graph.producer(v).kind is Kind.CONSTANT]
    return any(graph.type_of(v).rank > 1 for v in stored)
