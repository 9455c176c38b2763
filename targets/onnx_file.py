"""An exported program as the bytes of an ONNX file, by torch's exporter, and what that translates.

The exporter's registry says which operations have an ONNX translation; others are written out first,
by a decomposition of torch's. `DEAD_ENDS` are decomposed into operations that have no translation
either.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.export import ExportedProgram

from compiler.ir.graph import Node
from compiler.ir.schema import overload
from targets.quiet import quiet

FX_NODE = "pkg.torch.onnx.fx_node"  # where the exporter writes the node of the exported program
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


def onnx_bytes(program: ExportedProgram) -> bytes:
    """Return the program as an ONNX model, weights inside."""
    # The exporter's optimiser folds what its own translation leaves behind, shape arithmetic above all.
    made = torch.onnx.export(program, dynamo=True, optimize=True, verbose=False)
    assert made is not None
    return bytes(made.model_proto.SerializeToString())


def origins(model: bytes, program: ExportedProgram) -> dict[str, str]:
    """Return the IR node behind each node of an ONNX model and behind each value that it writes."""
    import onnx

    nodes = {n.name: str((n.meta.get("custom") or {}).get("ir_node", "")) for n in program.graph.nodes}
    found: dict[str, str] = {}
    for node in onnx.load_from_string(model).graph.node:
        written = next((p.value for p in node.metadata_props if p.key == FX_NODE), "")
        name = nodes.get(written.removeprefix("%").split(" ")[0], "")
        found |= {key: name for key in (node.name, *node.output) if key and name}
    return found


def untranslated(node: Node) -> str | None:
    """Return why the exporter does not translate a node, or None where it does."""
    if not _translates(node.op):
        return f"torch.onnx has no translation of {node.op}"
    if node.op == "aten.histc.default" and node.operand("min") == node.operand("max"):
        return "torch.onnx translates a histogram of a given range only"
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
