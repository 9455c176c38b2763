"""What the runtime takes: operations that torch's exporter translates, in types with a kernel.

The CPU provider needs a kernel for the type: float16 is computed in float32 behind casts where it
has none, bfloat16 and some float64 operations are refused when the model is loaded. A test compares
all of this with what the runtime does.
"""

from __future__ import annotations

import torch

from compiler.ir.graph import Node
from targets.onnx_file import untranslated

NO_FLOAT64 = frozenset(
    {
        *(f"aten.conv{n}d.{variant}" for n in (1, 2, 3) for variant in ("default", "padding")),
        "aten.convolution.default",
        "aten.conv_transpose2d.input",
        *(f"aten.avg_pool{n}d.default" for n in (1, 2, 3)),
        "aten.hardswish.default",
        "aten.hardsigmoid.default",
        "aten.gelu.default",
        "aten.group_norm.default",
        "aten.erf.default",
        "aten.upsample_bilinear2d.vec",
    }
)


def unsupported(node: Node) -> str | None:
    """Return why a node cannot be lowered, or None where it can."""
    if reason := untranslated(node):
        return reason
    dtypes = {type_.dtype for type_ in node.types}
    if torch.bfloat16 in dtypes:
        return "ONNX Runtime's CPU provider computes no bfloat16"
    if torch.float64 in dtypes and node.op in NO_FLOAT64:
        return f"ONNX Runtime's CPU provider has no float64 kernel for {node.op}"
    return None
