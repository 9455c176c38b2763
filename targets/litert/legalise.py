r"""Rewrites a graph into equal operations that the converter takes, before it sees it.

- An int8 weight read back by a dequantize, :math:`s (q - z)`, becomes the float weight with a quantize
  and a dequantize behind it: the converter knows a kernel's int8 weight by that pair, and stores it
  as :math:`q` again. The float weight is a point of the grid, so that the pair gives it back.
- BatchNorm becomes :math:`s x + t`, and `repeat` concatenations: where litert-torch 0.10 moves channels
  behind, it leaves a `repeat` counting in the old order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from targets.rewriting import Maker, Rule, affine_norm, rewrite

QUANTIZED = "quantized_decomposed."


def legalise(graph: Graph) -> Graph:
    """Return an equal graph in the operations the converter takes; the same graph where no rule applies."""
    return rewrite(graph, RULES)


def stored_weight(editor: Editor, node: Node) -> Sequence[Value]:
    """Write the dequantize of a constant as float constant, quantize, dequantize."""
    graph, stored = editor.graph, node.operand("input")
    if graph.constant(stored) is None:
        return ()
    values: dict[Value, Any] = {v: graph.constant(v) for _, v in node.values()}
    if any(tensor is None for tensor in values.values()):
        return ()
    run_node(node, values, {})
    weight = editor.constant(values[node.value], f"{node.name}_float", node.origin, before=node.name)
    kind = node.op.removeprefix(QUANTIZED + "de")
    operands = {key: v for key, v in node.operands if key not in ("input", "out_dtype")} | {"input": weight}
    stored_type, name = graph.type_of(stored), f"{node.name}_q"
    rest = (node.origin, node.source)
    codes = editor.op(QUANTIZED + kind, operands, [stored_type], name, *rest, before=node.name)
    back = {key: v for key, v in node.operands if key != "input"} | {"input": codes}
    return (editor.op(node.op, back, [node.type], f"{node.name}_dq", *rest, before=node.name),)


def repeat(editor: Editor, node: Node) -> Sequence[Value]:
    """Write `repeat` as concatenations."""
    x = node.operand("self")
    type_, times = editor.graph.type_of(x), node.operand("repeats")
    if not type_.static or not all(isinstance(t, int) and t > 0 for t in times):
        return ()
    make = Maker(editor, node)
    shape = [1] * (len(times) - type_.rank) + list(type_.shape)
    made = make.op("aten.reshape.default", (x, tuple(shape)))
    for dim, count in enumerate(times):
        if count > 1:
            shape[dim] *= count
            made = make.op("aten.cat.default", ((made,) * count, dim), shape=shape)
    return (made,)


RULES: Mapping[str, Rule] = {
    "aten.batch_norm.default": affine_norm,
    "aten.repeat.default": repeat,
    "quantized_decomposed.dequantize_per_channel.default": stored_weight,
    "quantized_decomposed.dequantize_per_tensor.default": stored_weight,
}
