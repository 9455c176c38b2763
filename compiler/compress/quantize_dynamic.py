"""int8 weights with activations that the runtime quantizes as it runs (PT2E): no calibration.

The weights of the chosen operations become int8 with a scale for each output channel. A kernel reads the
range of its float input at each call, quantizes it, multiplies in int8 and returns float. For a linear
layer the graph says so, by the range of each row (`compiler.compress.round_rows`) or of the whole input, as
the target's kernels read it. For another operation the input may stay a float value of the graph, where
kernels round it unasked: the runtime's result then differs from the graph's by the rounding of activations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from compiler.compress.quantize import NAMESPACE, check_done, is_static, with_quantizer
from compiler.compress.quantize_int4 import int4_nodes
from compiler.compress.round_rows import RowRounding
from compiler.export import example_inputs
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node
from compiler.ir.verify import verify


def quantize_dynamic(graph: Graph, selected: Collection[str], quantizer: Any, rows: bool) -> Graph:
    """Return the graph with the weights of the selected operations in int8, under its own names.

    `quantizer` is the target's, `target.quantizer(ir_filter(selected), INT8_DYNAMIC)`; `rows` tells whether
    its linear layers read the range of each row. Raises UnsupportedModelError where nothing selected can be
    int8.
    """
    # One run on any inputs: observers of weights look at theirs when they are run.
    result = with_quantizer(graph, quantizer, [example_inputs(graph)])
    check_done(dynamic_nodes(result), frozenset(selected))
    return _with_rows(result) if rows else result


def _with_rows(graph: Graph) -> Graph:
    """Return the graph with the rounding of rows in front of dynamic linear layers that have none."""
    editor = Editor(graph)
    rounding = RowRounding(editor)
    for name in sorted(dynamic_nodes(graph)):
        node = graph.node(name)
        if node.op == "aten.linear.default" and not _is_rounded(graph, node):
            read = rounding.of(node.operand("input"), node)
            operands = tuple((k, read if k == "input" else o) for k, o in node.operands)
            editor.update(dataclasses.replace(node, operands=operands))
    result = editor.finish()
    verify(result)
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


def unwritten_nodes(graph: Graph) -> frozenset[str]:
    """Return the operations whose kernels round activations in a way that the graph does not hold."""
    names = dynamic_nodes(graph) - int4_nodes(graph)  # int4 rounds where the graph says so, or not at all
    return frozenset(name for name in names if not _is_rounded(graph, graph.node(name)))


def _is_rounded(graph: Graph, node: Node) -> bool:
    return graph.producer(node.operand("input")).op.startswith(f"{NAMESPACE}dequantize")
