"""int8 weights with activations that the runtime quantizes as it runs (PT2E): no calibration.

The weights of the chosen operations become int8 with a scale for each output channel. A kernel reads the
range of its float input at each call, quantizes it, multiplies in int8 and returns float. Where the
target's kernels want it written, the graph holds a `choose_qparams` with quantize and dequantize in
front of the operation; where they do it unasked, the input stays a float value of the graph, and the
runtime's result differs from the graph's by the rounding of activations.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from compiler.compress.quantize import NAMESPACE, check_done, is_static, with_quantizer
from compiler.compress.quantize_int4 import int4_nodes
from compiler.export import example_inputs
from compiler.ir.graph import Graph, Node


def quantize_dynamic(graph: Graph, selected: Collection[str], quantizer: Any) -> Graph:
    """Return the graph with the weights of the selected operations in int8, under its own names.

    `quantizer` is the target's, `target.quantizer(ir_filter(selected), INT8_DYNAMIC)`. Raises
    UnsupportedModelError where nothing selected can be int8.
    """
    # One run on any inputs: observers of weights look at theirs when they are run.
    result = with_quantizer(graph, quantizer, [example_inputs(graph)])
    check_done(dynamic_nodes(result), frozenset(selected))
    return result


def dynamic_nodes(graph: Graph) -> frozenset[str]:
    """Return the operations with an int8 weight that do not read and write by scales fixed beforehand."""
    return frozenset(n.name for n in graph.ops() if is_dynamic(graph, n))


def is_dynamic(graph: Graph, node: Node) -> bool:
    """Tell whether an operation is one of `dynamic_nodes`."""
    values = dict(node.values())
    if "weight" not in values or "input" not in values:
        return False
    weight = graph.producer(values["weight"]).op
    return weight.startswith(f"{NAMESPACE}dequantize") and not is_static(graph, node)


def has_unwritten_rounding(graph: Graph) -> bool:
    """Tell whether kernels round activations in a way that the graph does not hold."""
    names = dynamic_nodes(graph) - int4_nodes(graph)  # int4 rounds where the graph says so, or not at all
    inputs = (dict(graph.node(name).values())["input"] for name in names)
    return any(not graph.producer(x).op.startswith(f"{NAMESPACE}dequantize") for x in inputs)
