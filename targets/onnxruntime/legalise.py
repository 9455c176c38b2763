r"""Rewrites a graph into equal operations: what torch's exporter takes, and what the runtime fuses.

The exporter translates attention of four axes alone: further leading axes are flattened, missing ones are
of one element. Of an int8 graph, the runtime looks for dequantize, operation, quantize, with nothing in
between:

- A clamp before a quantize goes where the quantize clamps as closely: with
  :math:`q(x) = \mathrm{clamp}(\mathrm{round}(x/s) + z, q_0, q_1)`, which is monotonic, and a clamp to
  :math:`[a, b]`, where :math:`q(a) = q_0` and :math:`q(b) = q_1`.
- A mean over all positions of an image becomes an average pooling and a reshape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from targets.onnxruntime.integers import integer_linear
from targets.rewriting import Maker, Rule, rewrite

QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor.default"


def legalise(graph: Graph) -> Graph:
    """Return an equal graph in the form the runtime fuses; the same graph where no rule applies."""
    return rewrite(graph, RULES)


def attention(editor: Editor, node: Node) -> Sequence[Value]:
    """Write attention of other than four axes, and its mask, with the leading ones as two."""
    graph, make = editor.graph, Maker(editor, node)
    query, key, value = (node.operand(name) for name in ("query", "key", "value"))
    types = [graph.type_of(v) for v in (query, key, value)]
    lead = types[0].shape[:-2]
    if len(lead) == 2 or not all(t.shape[:-2] == lead for t in types):
        return ()
    if len(lead) > 2 and not all(isinstance(d, int) for d in lead):
        return ()
    two = (math.prod(lead[:-1]), lead[-1] if lead else 1)  # type: ignore[arg-type]
    flat = [
        make.op("aten.reshape.default", (v, (*two, *t.shape[-2:])))
        for v, t in zip((query, key, value), types, strict=True)
    ]
    if (mask := node.operand("attn_mask")) is not None and graph.type_of(mask).rank > 2:
        places = (types[0].shape[-2], types[1].shape[-2])
        mask = _shaped(editor, node, "aten.expand.default", mask, "size", (*lead, *places))
        mask = _shaped(editor, node, "aten.reshape.default", mask, "shape", (*two, *places))
    operands = {k: v for k, v in node.operands if k not in ("query", "key", "value", "attn_mask")}
    shape = (*two, *node.type.shape[-2:])
    mixed = make.op(node.op, (*flat, mask), operands, shape=shape)
    return (make.op("aten.reshape.default", (mixed, node.type.shape)),)


def _shaped(editor: Editor, node: Node, op: str, x: Value, key: str, shape: Sequence[Any]) -> Value:
    """Place an operation that gives a value, of whatever dtype, another shape."""
    type_ = TensorType(tuple(shape), editor.graph.type_of(x).dtype)
    hint = f"{node.name}_mask"
    return editor.op(
        op, {"self": x, key: type_.shape}, [type_], hint, node.origin, node.source, before=node.name
    )


def clamp(editor: Editor, node: Node) -> Sequence[Value]:
    """Drop a clamp that every reader, a quantize, makes again."""
    relu = node.op == "aten.relu.default"
    low, high = (0.0, None) if relu else (node.operand("min_val"), node.operand("max_val"))
    readers = editor.graph.users(node.name)
    if not readers or not all(r.op == QUANTIZE and _saturates(r, low, high) for r in readers):
        return ()
    return (node.operand("self"),)


def _saturates(quantize: Node, low: float, high: float | None) -> bool:
    """Tell whether a quantize writes its least code for `low` and its greatest for `high`."""
    scale, zero = quantize.operand("scale"), quantize.operand("zero_point")
    least, greatest = quantize.operand("quant_min"), quantize.operand("quant_max")
    return round(low / scale) + zero <= least and (high is None or round(high / scale) + zero >= greatest)


def mean(editor: Editor, node: Node) -> Sequence[Value]:
    """Write the mean over the positions of a dequantized image as a pooling."""
    graph, x = editor.graph, node.operand("self")
    type_, dims = graph.type_of(x), node.operand("dim")
    spatial = (
        type_.rank == 4 and node.operand("dtype") is None and sorted(d % 4 for d in dims or ()) == [2, 3]
    )
    if not spatial or not type_.static or graph.producer(x).op != DEQUANTIZE:
        return ()
    make, (n, c, *size) = Maker(editor, node), type_.shape
    pooled = make.op("aten.avg_pool2d.default", (x, tuple(size)), shape=(n, c, 1, 1))
    return (pooled if node.operand("keepdim") else make.op("aten.reshape.default", (pooled, (n, c))),)


RULES: Mapping[str, Rule] = {
    "aten.linear.default": integer_linear,
    "aten.relu.default": clamp,
    "aten.hardtanh.default": clamp,
    "aten.mean.dim": mean,
    "aten.scaled_dot_product_attention.default": attention,
}
