"""What the runtime takes: operations that torch's exporter translates, in types with a kernel.

The exporter's registry says which operations have an ONNX translation; others are written out first,
by a decomposition of torch's. `DEAD_ENDS` are decomposed into operations that have no translation
either. The CPU provider then needs a kernel for the type: float16 is computed in float32 behind
casts where it has none, bfloat16 and some float64 operations are refused when the model is
loaded. A test compares all of this with what the runtime does.
"""

from __future__ import annotations

from functools import cache

import torch

from compiler.ir.graph import Node
from compiler.ir.schema import overload
from targets.onnxruntime.quiet import quiet

DEAD_ENDS = frozenset(
    {
        "aten.cdist.default",
        *(f"aten.copysign.{variant}" for variant in ("Tensor", "Scalar")),
        "aten.cumprod.default",
        "aten.digamma.default",
        "aten.erfinv.default",
        "aten.fmax.default",
        "aten.fmin.default",
        "aten.frexp.Tensor",
        "aten.gcd.default",
        "aten.hypot.default",
        "aten.i0.default",
        "aten.igamma.default",
        "aten.igammac.default",
        "aten.lgamma.default",
        "aten.linalg_inv.default",
        "aten.linalg_svd.default",
        "aten.linalg_svdvals.default",
        "aten.nextafter.default",
        *(f"aten.special_{name}.default" for name in ("bessel_j0", "bessel_j1", "i0", "i0e", "i1", "i1e")),
        *(f"aten.special_{name}.default" for name in ("ndtri", "spherical_bessel_j0", "zeta")),
    }
)
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
    if not _translates(node.op):
        return f"torch.onnx has no translation of {node.op}"
    if node.op == "aten.histc.default" and node.operand("min") == node.operand("max"):
        return "torch.onnx translates a histogram of a given range only"
    dtypes = {type_.dtype for type_ in node.types}
    if torch.bfloat16 in dtypes:
        return "ONNX Runtime's CPU provider computes no bfloat16"
    if torch.float64 in dtypes and node.op in NO_FLOAT64:
        return f"ONNX Runtime's CPU provider has no float64 kernel for {node.op}"
    return None


def _translates(op: str) -> bool:
    """Tell whether the exporter translates an operation, or writes it out in others that it does."""
    try:
        target = overload(op)
    except KeyError:
        return False
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return op not in DEAD_ENDS and (composite or target in _known())


@cache
def _known() -> frozenset[object]:
    """Return the overloads with a translation or a decomposition."""
    with quiet():
        # There is no public list; the version of torch is pinned, and a test looks at the outcome.
        from torch.onnx._internal.exporter._decomp import (
            create_onnx_friendly_decomposition_table,
            get_onnx_implemented_overloads,
        )
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        translated = set(get_onnx_implemented_overloads(ONNXRegistry.from_torchlib()))
        return frozenset(translated | set(create_onnx_friendly_decomposition_table(translated)))
