"""Attention without mask as bmm, softmax, bmm.

ExecuTorch's own decomposition guards fully masked rows with operations that no delegate takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value
from targets.rewriting import Maker


def attention(editor: Editor, node: Node) -> Sequence[Value]:
    """Write unmasked attention as bmm, softmax, bmm over the flattened leading dimensions."""
    q, k, v = (node.operand(name) for name in ("query", "key", "value"))
    types = [editor.graph.type_of(t) for t in (q, k, v)]
    masked = node.operand("attn_mask") is not None or node.operand("is_causal") or node.operand("enable_gqa")
    lead = types[0].shape[:-2]
    if masked or len(lead) < 1 or not all(t.static and t.shape[:-2] == lead for t in types):
        return ()
    batch = math.prod(lead)  # type: ignore[arg-type]
    (rows, width), (columns, _), (_, depth) = (t.shape[-2:] for t in types)
    scale = node.operand("scale")
    factor = 1.0 / math.sqrt(width) if scale is None else scale  # type: ignore[arg-type]
    make = Maker(editor, node)
    root = make.constant(torch.tensor(factor), "scale")
    scaled = make.op("aten.mul.Tensor", (q, root), shape=types[0].shape)
    q3 = make.op("aten.reshape.default", (scaled, (batch, rows, width)))
    k3 = make.op("aten.reshape.default", (k, (batch, columns, width)))
    v3 = make.op("aten.reshape.default", (v, (batch, columns, depth)))
    turned = make.op("aten.permute.default", (k3, (0, 2, 1)), shape=(batch, width, columns))
    scores = make.op("aten.bmm.default", (q3, turned), shape=(batch, rows, columns))
    weights = make.op("aten.softmax.int", (scores, -1), shape=(batch, rows, columns))
    mixed = make.op("aten.bmm.default", (weights, v3), shape=(batch, rows, depth))
    return (make.op("aten.reshape.default", (mixed, node.type.shape)),)
