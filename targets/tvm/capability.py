"""What TVM takes: operations in the table of its importer of exported programs, or by way of ONNX.

The importer first decomposes to core ATen, `DEAD_ENDS` into what it does not know. What neither road
knows is refused here; what a road knows and gets wrong is found when the library is checked.
"""

from __future__ import annotations

from functools import cache

import torch

from compiler.ir.graph import Node
from compiler.ir.schema import overload
from targets.onnx_file import untranslated
from targets.quiet import quiet

DEAD_ENDS = frozenset(
    {"aten.cdist.default", *(f"aten.linalg_{name}.default" for name in ("inv", "svd", "svdvals"))}
)


def unsupported(node: Node) -> str | None:
    """Return why a node cannot be imported, or None where it can."""
    if {type_.dtype for type_ in node.types} & {torch.complex64, torch.complex128}:
        return "TVM computes no complex numbers"
    if _imports(node.op):
        return None
    reason = untranslated(node)
    return reason and f"TVM's importer of exported programs has no {node.op}, and {reason}"


def _imports(op: str) -> bool:
    """Tell whether the importer knows an operation, or decomposes it first."""
    try:
        target = overload(op)
    except KeyError:
        return False
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    if op in DEAD_ENDS:
        return False
    return composite or op.removeprefix("aten.") in _table() or target in _decomposed()


@cache
def _table() -> frozenset[str]:
    with quiet():
        from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

        return frozenset(ExportedProgramImporter().create_convert_map())


@cache
def _decomposed() -> frozenset[object]:
    return frozenset(torch.export.default_decompositions())
