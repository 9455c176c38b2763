"""Which constants training may move, told by the operand they fill.

A constant of a quantised operation's weight is integers behind a dequantise and so is never among them.
"""

from __future__ import annotations

from compiler.compress.heal.objective import Halves
from compiler.compress.layerwise import quantised
from compiler.compress.quantize import NAMESPACE
from compiler.compress.weights import WEIGHTED
from compiler.ir.graph import Graph, Kind, Node, Value

FEWEST = 400  # images: with fewer, gradients fit the samples and not the model
NORMS = frozenset(
    f"aten.{name}"
    for name in ("layer_norm.default", "rms_norm.default", "group_norm.default", "batch_norm.default")
)


def biases(graph: Graph) -> tuple[str, ...]:
    """Return the biases of layers and the weights and biases of norms; not the last layer's."""
    last = {_behind(graph, value) for _, value in graph.output.values()}
    keys = {**dict.fromkeys(WEIGHTED, ("bias",)), **dict.fromkeys(NORMS, ("weight", "bias"))}
    return _constants(graph, [(n, keys[n.op]) for n in graph.ops() if n.op in keys and n.name not in last])


def weights(graph: Graph) -> tuple[str, ...]:
    """Return the weights of layers."""
    return _constants(graph, [(n, ("weight",)) for n in graph.ops() if n.op in WEIGHTED])


def too_few(parts: Halves) -> str | None:
    """Return why gradients are not to be had from so few images, None where there are enough."""
    if parts.images >= FEWEST:
        return None
    return f"training needs {FEWEST} calibration images or more, got {parts.images}: fewer make it worse"


def not_float(graph: Graph) -> str | None:
    """Return why weights cannot be trained, None where the graph is float."""
    return (
        "the graph is quantised, so its weights stay: only biases and norms move"
        if quantised(graph)
        else None
    )


def _behind(graph: Graph, value: Value) -> str:
    """Return the operation whose result a value is, rounded or not."""
    while graph.producer(value).op.startswith(NAMESPACE):
        value = graph.producer(value).operand("input")
    return value.node


def _constants(graph: Graph, found: list[tuple[Node, tuple[str, ...]]]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for node, keys in found:
        for key in keys:
            tensor = graph.constant(node.operand(key))
            if tensor is not None and tensor.is_floating_point():
                names[node.operand(key).node] = None
    return tuple(n for n in names if graph.node(n).kind is Kind.CONSTANT)
