"""Gives an imported graph the names, origins and signature of the graph it was made from.

Lossy rewrites that go through torch (PT2E, for one) come back with fresh names. Plans, reports and
capability questions speak of the graph's own nodes, so those names are put back: an operation that
came from IR node `n` is `n` again, and what was put around it is named after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, Value
from compiler.ir.verify import verify

_SUFFIX = {"quantize": "q", "dequantize": "dq"}
_PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default"
_STORED = {"input": "int8", "scales": "scale", "zero_points": "zero_point"}


def restore(result: Graph, graph: Graph, sources: Mapping[str, str]) -> Graph:
    """Return `result` under the names of `graph`.

    `sources` maps a node of `result` to the node of `graph` it came from. The two graphs take the
    same inputs in the same order.
    """
    wanted = _wanted(result, graph, sources)
    editor = Editor()
    names: dict[str, str] = {}
    for node in result.nodes():
        if node.kind is Kind.OUTPUT:
            editor.output(_renamed(operand, names) for _, operand in node.operands)
            continue
        hint, origin = wanted.get(node.name, (node.name, node.origin))
        name = editor.name(hint)
        names[node.name] = name
        operands = tuple((key, _renamed(operand, names)) for key, operand in node.operands)
        source = node.source or (graph.node(name).source if name in graph else "")
        editor.add(dataclasses.replace(node, name=name, operands=operands, origin=origin, source=source))
        if node.name in result.constants:
            editor.graph.constants[name] = result.constants[node.name]
    editor.graph.symbols = dict(result.symbols)
    editor.graph.signature = graph.signature
    restored = editor.finish()
    verify(restored)
    return restored


def _wanted(result: Graph, graph: Graph, sources: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return node of `result` -> (name hint, origin)."""
    wanted = {n.name: (own.name, own.origin) for n, own in zip(result.inputs(), graph.inputs(), strict=True)}
    for node in result.nodes():
        source = sources.get(node.name, "")
        if node.kind is Kind.OP and source in graph:
            same = graph.node(source).op == node.op
            wanted[node.name] = (source if same else node.name, graph.node(source).origin)
            for key, value in node.values():
                if result.node(value.node).op == _PER_CHANNEL:
                    _name_weight(result, graph, value, graph.node(source).operand(key), wanted)
        elif _quantization(node):
            producer = node.operand("input").node
            hint, origin = wanted.get(producer, (producer, ""))
            if node.op != _PER_CHANNEL:
                wanted[node.name] = (f"{hint.removesuffix('_q')}_{_quantization(node)}", origin)
        elif node.kind in (Kind.CONSTANT, Kind.STATE) and node.name not in wanted and node.name in graph:
            wanted[node.name] = (node.name, graph.node(node.name).origin)
    return wanted


def _name_weight(
    result: Graph, graph: Graph, value: Value, weight: Operand, wanted: dict[str, tuple[str, str]]
) -> None:
    """Name an int8 weight, its scale and zero point after the float weight."""
    if not isinstance(weight, Value):
        return
    origin = graph.node(weight.node).origin
    dequantize = result.node(value.node)
    int8_before = graph.node(weight.node).op == _PER_CHANNEL
    name = weight.node.removesuffix("_dq") if int8_before else weight.node
    wanted[dequantize.name] = (f"{name}_dq", origin)
    for key, stored in dequantize.values():
        if key in _STORED:
            wanted[stored.node] = (f"{name}_{_STORED[key]}", origin)


def _quantization(node: Node) -> str:
    """Return "q" or "dq" for a quantization operation, "" for others."""
    namespace, _, rest = node.op.partition(".")
    return _SUFFIX.get(rest.split("_", 1)[0], "") if namespace == "quantized_decomposed" else ""


def _renamed(operand: Operand, names: Mapping[str, str]) -> Operand:
    if isinstance(operand, tuple):
        return tuple(_renamed(item, names) for item in operand)
    return Value(names[operand.node], operand.index) if isinstance(operand, Value) else operand
