"""Putting emitted steps into the graph in the place of a region."""

from __future__ import annotations

import os

import torch

from compiler.errors import NumericError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Operand, TensorType, Value
from compiler.merge.emit import PREVIOUS, Step
from compiler.merge.regions import Regions


def apply_steps(
    regions: Regions,
    entry: Value,
    exit_: Value,
    steps: list[Step],
    editor: Editor,
    renamed: dict[Value, Value],
) -> None:
    """Emit `steps` in front of `exit_`, hand its readers over, and record the new name."""
    origin = site(regions.graph, [v.node for v in regions.affine.between(entry, exit_)])
    dtype = regions.graph.type_of(exit_).dtype
    source = regions.graph.node(exit_.node).source
    value = renamed.get(entry, entry)
    for step in steps:
        operands = {k: _operand(editor, k, o, value, dtype, origin, exit_) for k, o in step.operands.items()}
        type_ = TensorType(step.shape, dtype)
        value = editor.op(step.op, operands, (type_,), origin=origin, source=source, before=exit_.node)
    editor.replace_uses(exit_, value)
    editor.remove_unread([exit_.node])
    renamed[exit_] = value


def _operand(
    editor: Editor, key: str, operand: Operand, value: Value, dtype: torch.dtype, origin: str, exit_: Value
) -> Operand:
    if operand is PREVIOUS:
        return value
    if not isinstance(operand, torch.Tensor):
        return operand
    cast = operand.to(dtype).contiguous()
    if not bool(torch.isfinite(cast).all()):
        raise NumericError(
            f"the merged {key} of {origin or exit_.node!r} leaves the range of {dtype}: its greatest value "
            f"is {operand.abs().max().item():.3g}; compile in a wider dtype or switch merging off there"
        )
    return editor.constant(cast, f"{origin.replace('.', '_') or exit_.node}_{key}", origin, before=exit_.node)


def site(graph: Graph, names: list[str]) -> str:
    """Return the module path that all the nodes share, or the first node's own."""
    paths = [p.split(".") for p in (graph.node(n).origin for n in names) if p]
    shared = os.path.commonprefix(paths)
    return ".".join(shared or (paths[0] if paths else []))
