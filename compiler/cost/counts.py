"""Multiply-accumulates and bytes of one operation: what the roofline is drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.ir.dims import hint
from compiler.ir.graph import Graph, Node, TensorType

# Operations that only relabel memory, or vanish at build time.
FREE = {"aten.reshape.default", "aten.expand.default", "aten.unsqueeze.default", "aten.squeeze.dim"}


@dataclass(frozen=True)
class Counts:
    """What one call costs: `macs` multiply-accumulates, `bytes` read and written.

    `taps` are those of a depthwise convolution's kernel, 0 for another operation.
    """

    macs: float
    bytes: float
    taps: int = 0


def counts(
    op: str, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]], itemsize: int
) -> Counts:
    """Return the counts of an operation from static shapes.

    `inputs` are the shapes of its tensor operands in schema order: for convolutions, linear and
    matrix products the second is the weight. BatchNorm counts as the multiply and the add that a
    runtime without a BatchNorm kernel runs, a transform of n real numbers as 2.5 n log2 n operations.
    """
    if op in FREE:
        return Counts(0, 0)
    moved = sum(map(math.prod, inputs)) + sum(map(math.prod, outputs))
    size = sum(map(math.prod, outputs))
    name = op.split(".")[1]
    if name.startswith("conv") or name == "linear":
        return Counts(size * math.prod(inputs[1][1:]), moved * itemsize, _depthwise_taps(name, inputs))
    if name in ("mm", "bmm", "matmul", "addmm"):
        return Counts(size * inputs[-2][-1], moved * itemsize)
    if name == "scaled_dot_product_attention":
        return Counts(2 * math.prod(inputs[0]) * inputs[1][-2], moved * itemsize)
    if name.startswith("fft_"):
        largest = max(*map(math.prod, inputs), size)
        length = max((d for shape in (*inputs, *outputs) for d in shape[1:]), default=2)
        return Counts(1.25 * largest * math.log2(max(length, 2)), moved * itemsize)
    if name == "batch_norm":
        return Counts(2 * size, 2 * moved * itemsize)
    return Counts(max(size, math.prod(inputs[0]) if inputs else 0), moved * itemsize)


def _depthwise_taps(name: str, inputs: Sequence[tuple[int, ...]]) -> int:
    data, weight = inputs[:2]
    convolves = name.startswith("conv") and not name.startswith("conv_transpose")
    depthwise = convolves and len(data) == len(weight) and weight[1] == 1 < weight[0] == data[1]
    return math.prod(weight[2:]) if depthwise else 0


def node_counts(graph: Graph, node: Node) -> Counts:
    """Return the counts of a node of a graph; a symbolic dimension takes its example size."""
    shapes = [_shape(graph, graph.type_of(value)) for _, value in node.values()]
    outputs = [_shape(graph, t) for t in node.types]
    return counts(node.op, shapes, outputs, node.type.dtype.itemsize)


def _shape(graph: Graph, type_: TensorType) -> tuple[int, ...]:
    return tuple(hint(graph, d) for d in type_.shape)
