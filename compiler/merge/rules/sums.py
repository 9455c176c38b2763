"""Sums of branches, and outputs side by side (`merges.md` 1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from compiler.ir.graph import Graph, Node, Value
from compiler.merge import tap_map
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form, Move
from compiler.merge.rules.channelwise import constant_sum
from compiler.merge.shift import broadcast, plus


def _sum(graph: Graph, node: Node, index: int) -> AffineNode | None:
    left, right = node.operand("self"), node.operand("other")
    if not (is_data(graph, left) and is_data(graph, right)):
        return constant_sum(graph, node, index)
    if graph.type_of(left).shape != node.type.shape or graph.type_of(right).shape != node.type.shape:
        return None
    alpha = float(node.operand("alpha", 1)) * (-1.0 if "sub" in node.op else 1.0)
    if left == right:
        return AffineNode((left,), lambda forms: _times(forms[0], 1 + alpha))
    return AffineNode((left, right), lambda forms: _added(forms[0], forms[1], alpha))


def _times(form: Form, factor: float) -> Form:
    return replace(form, taps=tap_map.scaled(form.taps, factor), shift=plus(None, form.shift, factor))


def _added(a: Form, b: Form, factor: float) -> Form:
    check_aligned([a, b])
    taps = tap_map.add(a.taps, tap_map.scaled(b.taps, factor))
    shape_only = a.shape_only or b.shape_only
    return replace(a, taps=taps, shift=plus(a.shift, b.shift, factor), shape_only=shape_only)


def check_aligned(forms: Sequence[Form]) -> None:
    """Raise Refusal unless all forms keep the same elements in the same places of one entry."""
    first = forms[0]
    for other in forms[1:]:
        if _moved_apart(first, other):
            raise Refusal("its operands have moved their positions differently", quiet=True)
        if (first.arrangement is None) != (other.arrangement is None) or first.axis != other.axis:
            raise Refusal("its operands keep their channels in different places", quiet=True)
        if first.arrangement is not None and other.arrangement is not None:
            same = first.arrangement.channels == other.arrangement.channels
            if not same or not first.arrangement.code.equal(other.arrangement.code):
                raise Refusal("its operands keep their channels in different places", quiet=True)


def _differ(a: Move, b: Move) -> bool:
    return a is not b and (a.node != b.node or a.layout != b.layout or a.added is not b.added)


def _cat(graph: Graph, node: Node, _: int) -> AffineNode | None:
    values = node.operand("tensors")
    if not all(is_data(graph, v) for v in values) or len(values) < 2:
        return None
    axis = node.operand("dim") % node.type.rank
    terms = tuple(dict.fromkeys(values))

    def apply(forms: Sequence[Form]) -> Form:
        by_value: dict[Value, Form] = dict(zip(terms, forms, strict=True))
        return _stacked([by_value[v] for v in values], axis)

    return AffineNode(terms, apply)


def _stacked(forms: list[Form], axis: int) -> Form:
    """Return the form whose channels are those of all forms, side by side on `axis`."""
    if any(f.arrangement is not None or f.axis != axis or _moved_apart(f, forms[0]) for f in forms):
        raise Refusal("it joins operands along another axis than their channels", quiet=True)
    taps = tap_map.stack([f.taps for f in forms])
    shift = None
    if any(f.shift is not None for f in forms):
        parts = [f.weight(torch.zeros(f.taps.channels_out)) if f.shift is None else f.shift for f in forms]
        shift = torch.cat(broadcast(parts))
    shape = list(forms[0].shape)
    shape[axis] = taps.channels_out
    joined = replace(forms[0], taps=taps, shift=shift, shape=tuple(shape))
    shape_only = any(f.shape_only for f in forms)
    return replace(joined, positions=_positions(shape, axis), shape_only=shape_only)


def _moved_apart(a: Form, b: Form) -> bool:
    return len(a.moves) != len(b.moves) or any(map(_differ, a.moves, b.moves))


def _positions(shape: list[int], axis: int) -> int:
    return math.prod(s for i, s in enumerate(shape) if i != axis)


RULES: dict[str, Rule] = {
    "aten.add.Tensor": _sum,
    "aten.sub.Tensor": _sum,
    "aten.cat.default": _cat,
}
