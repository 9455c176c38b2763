"""Attention and rotary embeddings. What torch's attention cannot say is left to the schema's own body."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.registry import op

_KNOWN = {
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "qk_matmul_output_mode",
    "scale",
    "softcap",
    "softmax_precision",
}


@op("Attention")
def attention(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *more: Any) -> Any:
    """Run plain attention as one operation: no cache, no cap on scores, no scores asked for."""
    if not set(call.step.attributes) <= _KNOWN:
        return NotImplemented
    plain = not call.attr("softcap", 0.0) and not any(m is not None for m in more) and call.outputs == 1
    if not plain or call.attr("qk_matmul_output_mode", 0) or call.attr("softmax_precision"):
        return NotImplemented
    if call.attr("is_causal", 0) and mask is not None:
        return NotImplemented
    if mask is not None and (mask.shape[-1] != k.shape[-2] or mask.dtype not in (torch.bool, q.dtype)):
        return NotImplemented
    flat = q.dim() == 3
    if flat:
        q = _heads(q, call.attr("q_num_heads"))
        k, v = (_heads(t, call.attr("kv_num_heads")) for t in (k, v))
    if mask is not None and mask.shape[-1] != k.shape[-2]:
        return NotImplemented
    causal = bool(call.attr("is_causal", 0))
    if causal and q.shape[-2] != k.shape[-2]:
        return NotImplemented
    scale, grouped = call.attr("scale"), q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=grouped)
    return y.transpose(1, 2).flatten(2) if flat else y


def _heads(x: Tensor, count: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


@op("RotaryEmbedding")
def rotary(call: Call, x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
    """Turn pairs of features by an angle for each position."""
    flat = x.dim() == 3
    heads = _heads(x, call.attr("num_heads")) if flat else x
    if places is not None:
        cos, sin = cos[places], sin[places]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    width = call.attr("rotary_embedding_dim", 0) or heads.shape[-1]
    turned, rest = heads[..., :width], heads[..., width:]
    if call.attr("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    made = torch.cat([turned, rest], -1) if rest.shape[-1] else turned
    return made.transpose(1, 2).flatten(2) if flat else made
