"""What ExecuTorch can run at all: what XNNPACK takes, and what a kernel of its own computes.

An operation outside the delegate is decomposed to core ATen, and each part needs a kernel in the
runtime; a view has one by the name of its copy. `DEAD_ENDS` are decomposed into parts that have none.
"""

from __future__ import annotations

from functools import cache

import torch

from compiler.ir.graph import Node
from compiler.ir.schema import overload
from targets.executorch.capability import unsupported
from targets.quiet import quiet

QUANTIZED = "quantized_decomposed."
DEAD_ENDS = frozenset(f"aten.linalg_{name}.default" for name in ("inv", "svd", "svdvals"))


def refused(node: Node) -> str | None:
    """Return why no part of the runtime computes a node, or None where one does."""
    if node.op.startswith(QUANTIZED) or unsupported(node) is None or _computed(node.op):
        return None
    return f"ExecuTorch's runtime has no kernel for {node.op}"


def _computed(op: str) -> bool:
    try:
        target = overload(op)
    except KeyError:
        return False
    if op in DEAD_ENDS:
        return False
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    name = op.split(".")[1]
    return composite or target in _decomposed() or bool({name, f"{name}_copy"} & _kernels())


@cache
def _kernels() -> frozenset[str]:
    """Return the operations with a kernel, by the name their overloads share."""
    with quiet():
        from executorch.extension.pybindings import _portable_lib

        return frozenset(n.partition("::")[2].split(".")[0] for n in _portable_lib._get_operator_names())


@cache
def _decomposed() -> frozenset[object]:
    with quiet():
        from executorch.exir.tracer import _default_decomposition_table

        return frozenset(_default_decomposition_table())
