"""Padding by a constant or by the image itself, and strided slices of the grid (`merges.md` 1.2, 1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from compiler.ir.graph import Dim, Graph, Node, Operand, Value
from compiler.merge import tap_map
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form
from compiler.merge.rules import movement
from compiler.merge.rules.commuting import filling
from compiler.merge.rules.spatial import node_of, on_grid, selection
from compiler.merge.rules.spectral import slice_rule
from compiler.merge.shift import Shift, collapsed, plus, push
from compiler.merge.sizes import constant
from compiler.merge.tap_map import ZEROS, TapMap

_MODES = {"reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def _pad(graph: Graph, node: Node, _: int) -> AffineNode | None:
    mode = _MODES.get(node.operand("mode"), ZEROS)
    value = 0.0 if mode != ZEROS else float(node.operand("value") or 0)
    pairs = _pairs(node.operand("pad"), node.type.rank - 2)
    source = node.operand("self")
    zeros = mode == ZEROS and value == 0
    if pairs is None or not isinstance(source, Value):
        return filling(graph, node, _padded(node)) if zeros else None
    slack = tuple(left + right - 1 for left, right in pairs)
    offset = tuple(-left for left, _ in pairs)

    def build(form: Form, size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        channels = form.taps.channels_out
        still = (1,) * len(pairs)
        taps = tap_map.plain((offset,), selection(form, channels), still, slack, size, node.type.shape[2:])
        taps = replace(taps, edge=tuple(mode if any(p) else ZEROS for p in pairs))
        return taps, _frame(form, taps, value)

    mapped = node_of(graph, node, source, build)
    front = filling(graph, node, _padded(node)) if zeros else None

    def apply(forms: Sequence[Form]) -> Form:
        on_second = forms[0].arrangement is None and forms[0].axis == 1
        return mapped.apply(forms) if on_second or front is None else front.apply(forms)

    return AffineNode((source,), apply)


def _padded(node: Node) -> set[int]:
    """Return the axes that gain elements."""
    pad, rank = node.operand("pad"), node.type.rank
    return {rank - 1 - i // 2 for i, amount in enumerate(pad) if amount}


def _pairs(pad: Operand, rank: int) -> list[tuple[int, int]] | None:
    """Return (left, right) for each spatial axis, None where other axes are padded."""
    if rank < 1 or len(pad) > 2 * rank or not all(isinstance(p, int) for p in pad):
        return None
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)][::-1]
    return [(0, 0)] * (rank - len(pairs)) + pairs


def _frame(form: Form, taps: TapMap, value: float) -> Shift:
    """Return the shift of padding with `value`: `value` in the frame, zero inside."""
    if not value:
        return None
    full = form.weight(torch.full((taps.channels_out,), value))
    return plus(full, push(taps, torch.ones_like(full)), -value)


def _slice(graph: Graph, node: Node, index: int) -> AffineNode | None:
    """A slice of a grid axis is a tap map; one of any other axis a movement."""
    spectral = slice_rule(graph, node, index)
    if spectral is not None:
        return spectral
    source = node.operand("self")
    type_ = graph.type_of(source)
    axis = node.operand("dim") % type_.rank
    moved = movement.move(graph, node, index)
    bounds = _bounds(graph, node, axis)
    if axis < 2 or type_.rank < 3 or bounds is None or moved is None:
        return moved
    begin, step, slack = bounds

    def per(value: int, other: int) -> tuple[int, ...]:
        return tuple(value if i == axis else other for i in range(2, type_.rank))

    def build(form: Form, size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        still = selection(form, form.taps.channels_out)
        taps = tap_map.plain((per(begin, 0),), still, per(step, 1), per(slack, -1), size, node.type.shape[2:])
        return taps, None

    sliced = node_of(graph, node, source, build)

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        inside = form.arrangement is None and form.axis == 1
        return sliced.apply(forms) if inside else moved.apply(forms)

    return AffineNode((source,), apply, relabels=True)


def _scatter(graph: Graph, node: Node, _: int) -> AffineNode | None:
    """Write a constant where the value is constant already: the frame of a padded image (`merges.md` 1.5)."""
    source, written = node.operand("self"), constant(graph, node.operand("src"))
    axis = node.operand("dim") % node.type.rank
    type_ = graph.type_of(source)
    if written is None or axis < 2 or not type_.static or not is_data(graph, source):
        return None
    size = type_.shape[axis]
    assert isinstance(size, int)
    span = range(size)[slice(node.operand("start"), node.operand("end"), node.operand("step"))]

    def apply(forms: Sequence[Form]) -> Form:
        form = on_grid(forms[0], type_)
        if any(_reads_input(form.taps, axis - 2, position) for position in span):
            raise Refusal("it overwrites positions that the image reaches")
        if not bool((written == written[:1]).all()):
            raise Refusal("it writes something else into each sample")
        if not form.real:  # whether the frame fits the image shows only with weights
            return replace(form, shift=form.weight(torch.empty(form.taps.channels_out)))
        uniform = (
            torch.zeros(form.taps.channels_out, dtype=torch.float64) if form.shift is None else form.shift
        )
        whole = uniform if uniform.dim() > 1 else uniform.reshape(-1, *(1,) * form.taps.rank)
        whole = whole.expand(-1, *form.shape[2:]).clone()
        whole[(slice(None),) * (axis - 1) + (slice(span.start, span.stop, span.step),)] = written[0].double()
        return replace(form, shift=collapsed(whole))

    return AffineNode((source,), apply)


def _reads_input(taps: TapMap, axis: int, position: int) -> bool:
    size = taps.in_size[axis]
    reads = [taps.stride[axis] * position + o[axis] for o in taps.offsets]
    return (
        taps.edge[axis] != ZEROS
        or not isinstance(size, int)
        or any(0 <= r < size * taps.up[axis] for r in reads)
    )


def _bounds(graph: Graph, node: Node, axis: int) -> tuple[int, int, int] | None:
    """Return (first position, step, slack) of a slice with known ends."""
    size, count = graph.type_of(node.operand("self")).shape[axis], node.type.shape[axis]
    start, step = node.operand("start") or 0, node.operand("step")
    if not (isinstance(size, int) and isinstance(count, int) and isinstance(start, int)):
        return None
    begin = start + size if start < 0 else min(start, size)
    return begin, step, (count - 1) * step - size


RULES: dict[str, Rule] = {
    "aten.constant_pad_nd.default": _pad,
    "aten.pad.default": _pad,
    "aten.slice.Tensor": _slice,
    "aten.slice_scatter.default": _scatter,
}
