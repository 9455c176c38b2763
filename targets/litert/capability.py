"""What the converter takes: operations with a lowering of litert-torch's, or written out in such.

The converter first decomposes to core ATen and marks some operations as composites, then looks each
up in its registry. `DEAD_ENDS` are decomposed into operations that are not in it. A kernel of
LiteRT's computes float32, integers and booleans; the converter widens bfloat16 inputs, and float16
runs where XNNPACK has it. A test compares this with what converts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from compiler.ir.graph import Node
from compiler.ir.schema import overload
from targets.litert.legalise import QUANTIZED
from targets.quiet import quiet

DEAD_ENDS = frozenset(f"aten.linalg_{name}.default" for name in ("inv", "svd", "svdvals"))


def unsupported(node: Node) -> str | None:
    """Return why a node cannot be converted, or None where it can."""
    if node.op.startswith(QUANTIZED):
        return None
    if not _lowers(node.op):
        return f"litert-torch has no lowering of {node.op}"
    dtypes = {type_.dtype for type_ in node.types}
    if torch.float64 in dtypes:
        return "LiteRT's kernels compute no float64"
    return None


def _lowers(op: str) -> bool:
    """Tell whether an operation has a lowering, or is written out in others."""
    try:
        target = overload(op)
    except KeyError:
        return False
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    lookup, decompositions = _registry()
    return op not in DEAD_ENDS and (composite or target in decompositions or lookup(target) is not None)


@cache
def _registry() -> tuple[Any, frozenset[object]]:
    """Return litert-torch's look-up of lowerings, and what it decomposes or marks before."""
    with quiet():
        from litert_torch import fx_infra
        from litert_torch._convert.fx_passes import build_aten_composite_pass
        from litert_torch.backend import lowerings

        composites = build_aten_composite_pass._composite_builders
        return lowerings.lookup, frozenset({*fx_infra.decomp.pre_convert_decomp(), *composites})
