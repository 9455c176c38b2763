"""Putting a program into the graph in the place of a region."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compiler.errors import NumericError
from compiler.ir.edit import Editor
from compiler.ir.graph import Operand, Value
from compiler.merge.regions import Regions
from compiler.merge.site import site
from compiler.merge.step import ENTRY, Program, Ref


@dataclass(frozen=True)
class _Place:
    """Where a program goes: in front of `exit`, on behalf of the module `origin`."""

    editor: Editor
    exit: Value
    origin: str
    source: str


def apply_program(
    regions: Regions,
    entry: Value,
    exit_: Value,
    program: Program,
    editor: Editor,
    renamed: dict[Value, Value],
) -> None:
    """Emit a program in front of `exit_`, hand its readers over, and record the new name."""
    origin = site(regions.graph, (v.node for v in regions.affine.between(entry, exit_)))
    place = _Place(editor, exit_, origin, regions.graph.node(exit_.node).source)
    made: list[Value] = []
    start = renamed.get(entry, entry)
    for step in program.steps:
        operands = {k: _operand(place, k, o, start, made) for k, o in step.operands.items()}
        value = editor.op(
            step.op, operands, step.types, origin=origin, source=place.source, before=exit_.node
        )
        made.append(Value(value.node, step.output))
    result = start if program.result == ENTRY else made[program.result.index]
    editor.replace_uses(exit_, result)
    editor.remove_unread([exit_.node])
    renamed[exit_] = result


def _operand(place: _Place, key: str, operand: Operand, start: Value, made: list[Value]) -> Operand:
    if isinstance(operand, Ref):
        return start if operand == ENTRY else made[operand.index]
    if isinstance(operand, tuple):
        return tuple(_operand(place, key, o, start, made) for o in operand)
    return _constant(place, key, operand) if isinstance(operand, torch.Tensor) else operand


def _constant(place: _Place, key: str, tensor: torch.Tensor) -> Value:
    dtype = place.editor.graph.type_of(place.exit).dtype
    cast = tensor.to(dtype).contiguous()
    name = place.origin.replace(".", "_") or place.exit.node
    if not bool(torch.isfinite(cast).all()):
        raise NumericError(
            f"the merged {key} of {name!r} leaves the range of {dtype}: its greatest value "
            f"is {tensor.abs().max().item():.3g}; compile in a wider dtype or switch merging off there"
        )
    return place.editor.constant(cast, f"{name}_{key}", place.origin, before=place.exit.node)
