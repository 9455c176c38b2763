"""Forms and operations in a line of words, as `explain` prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from compiler.ir.graph import Graph, Kind, Node
from compiler.merge.form import Form
from compiler.merge.step import Step
from compiler.merge.tap_map import ZEROS, TapMap


def describe_form(form: Form) -> str:
    """Return the algebraic form of a region: `tap map 3x3, depthwise 96, stride 2, bias`.

    A map of one tap is a matrix, at one position or at each. Offsets span the tap map's extent, of which
    the number of taps is named where not all are there.
    """
    parts = [_taps(form.taps), *(f"extended by {e}" for e in dict.fromkeys(form.taps.edge) if e != ZEROS)]
    if form.shift is not None:
        parts.append("bias" if form.shift.dim() == 1 else "shift that depends on the position")
    if form.moves:
        parts.append("behind movements of positions")
    if form.arrangement is not None:
        parts.append("rearranged")
    return ", ".join(parts)


def describe(graph: Graph, node: Node) -> str:
    """Return a short name of a node: `conv2d 3x3 s2 g48`, `batch_norm`, `add`."""
    if not node.op:
        return node.kind.value
    weight = graph.constant(node.operand("weight"))
    return _short(node.op, weight, node.operand("stride"), node.operand("groups"), node.operand("dilation"))


def describe_step(step: Step) -> str:
    """Return a short name of an emitted operation."""
    get = step.operands.get
    return _short(step.op, get("weight"), get("stride"), get("groups"), get("dilation"))


def window(graph: Graph, name: str) -> tuple[str, ...]:
    """Return the operations around a node: what it reads and what reads it."""
    node = graph.node(name)
    reads = [graph.producer(v) for _, v in node.values()]
    around = [n for n in reads if n.kind is not Kind.CONSTANT] + [node] + graph.users(name)
    return tuple(f"%{n.name}: {describe(graph, n) if n.op else n.kind.value}" for n in around)


def _taps(taps: TapMap) -> str:
    if len(taps.offsets) == 1 and all(s == 1 for s in (*taps.stride, *taps.up)):
        return f"matrix {_channels(taps)}"
    extent = [max(o) - min(o) + 1 for o in zip(*taps.offsets, strict=True)]
    parts = [f"tap map {_by(extent)}"]
    if len(taps.offsets) < math.prod(extent):
        parts[0] += f" of {len(taps.offsets)} taps"
    parts.append(_channels(taps))
    for name, values in (("stride", taps.stride), ("transposed, stride", taps.up)):
        if any(v != 1 for v in values):
            parts.append(f"{name} {values[0] if len(set(values)) == 1 else _by(values)}")
    return ", ".join(parts)


def _channels(taps: TapMap) -> str:
    matrices = taps.blocks
    if matrices.diagonal:
        return f"{'depthwise' if len(taps.offsets) > 1 else 'diagonal of'} {matrices.rows}"
    blocks = f" in {matrices.groups} blocks" if matrices.groups > 1 else ""
    return f"{matrices.columns} to {matrices.rows} channels{blocks}"


def _by(sizes: Sequence[object]) -> str:
    return "x".join(map(str, sizes))


def _short(op: str, weight: object, stride: object, groups: object, dilation: object) -> str:
    name = op.split(".")[1]
    if not name.startswith("conv") or not isinstance(weight, torch.Tensor):
        return name
    parts = [name, _by(weight.shape[2:])]
    for letter, value in (("s", stride), ("d", dilation)):
        if isinstance(value, tuple) and any(v != 1 for v in value):
            parts.append(f"{letter}{_by(value) if len(set(value)) > 1 else value[0]}")
    return " ".join([*parts, *([f"g{groups}"] if groups != 1 else [])])
