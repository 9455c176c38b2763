"""Attention as bmm, sum with the mask, softmax, bmm.

ExecuTorch's own decomposition guards fully masked rows with operations that no delegate takes, and forgets
that the fused operation's result lies in memory as [batch, rows, heads, width], so that a view behind it may
not be one. A mask is written where it is known and leaves something in each row: what it forbids gets
`FORBIDDEN`, of which the exponential in float32 is 0 as that of an infinity is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Dim, Node, Value
from targets.rewriting import Maker

FORBIDDEN = -1e30


def attention(editor: Editor, node: Node) -> Sequence[Value]:
    """Write attention as bmm, softmax, bmm over the flattened leading dimensions."""
    q, k, v = (node.operand(name) for name in ("query", "key", "value"))
    types = [editor.graph.type_of(t) for t in (q, k, v)]
    lead = types[0].shape[:-2]
    if node.operand("enable_gqa") or len(lead) < 1:
        return ()
    if not all(t.static and t.shape[:-2] == lead for t in types):
        return ()
    batch = math.prod(lead)  # type: ignore[arg-type]
    (rows, width), (columns, _), (_, depth) = (t.shape[-2:] for t in types)
    mask = _mask(editor, node, int(rows), int(columns))  # type: ignore[arg-type]
    if mask is None:
        return ()
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
    if mask.numel():
        scores = _masked(make, scores, mask, lead)
    weights = make.op("aten.softmax.int", (scores, -1), shape=(batch, rows, columns))
    mixed = make.op("aten.bmm.default", (weights, v3), shape=(batch, rows, depth))
    return (make.op("aten.reshape.default", (mixed, node.type.shape)),)


def _mask(editor: Editor, node: Node, rows: int, columns: int) -> torch.Tensor | None:
    """Return what is added to the scores, nothing where that is nothing, None where it is not known."""
    operand, causal = node.operand("attn_mask"), node.operand("is_causal")
    if operand is None and not causal:
        return torch.empty(0)
    if node.type.dtype is not torch.float32:
        return None
    known = torch.ones(rows, columns, dtype=torch.bool).tril() if causal else editor.graph.constant(operand)
    if known is None:
        return None
    allowed = known if known.dtype is torch.bool else known > FORBIDDEN
    added = torch.zeros(()) if known.dtype is torch.bool else known.double()
    mask = torch.where(allowed, added.double(), FORBIDDEN)
    return mask if bool(allowed.expand(*allowed.shape[:-1], columns).any(-1).all()) else None


def _masked(make: Maker, scores: Value, mask: torch.Tensor, lead: Sequence[Dim]) -> Value:
    """Add a mask that broadcasts over the leading dimensions."""
    batch, *last = make.editor.graph.type_of(scores).shape
    if all(size == 1 for size in mask.shape[:-2]):
        given = make.constant(mask.reshape(mask.shape[-2:]), "mask")
        return make.op("aten.add.Tensor", (scores, given), shape=(batch, *last))
    given = make.constant(mask, "mask")
    apart = make.op("aten.reshape.default", (scores, (*lead, *last)))
    summed = make.op("aten.add.Tensor", (apart, given), shape=(*lead, *last))
    return make.op("aten.reshape.default", (summed, (batch, *last)))
