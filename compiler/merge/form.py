"""The symbolic evaluation of a region: its tap map and static shift (`merges.md` 1.15, step 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compiler.ir.graph import Graph, Value
from compiler.merge.affine_ops import Layout, Term, channels, layout_of, spatial
from compiler.merge.attempt import Refusal
from compiler.merge.region import Affine
from compiler.merge.shift import Shift, plus, push
from compiler.merge.tap_map import TapMap, add, compose, identity, replace_weight, scaled


@dataclass(frozen=True)
class Form:
    """What a region computes; `uneven` names the operation at which the shift became a map."""

    taps: TapMap
    shift: Shift
    layout: Layout
    uneven: str = ""


def form(graph: Graph, affine: Affine, entry: Value, values: list[Value], weights: bool) -> Form:
    """Return the form of the last of `values` relative to `entry`.

    Without `weights` the matrices live on the meta device: geometry and price for nothing.
    Raises Refusal naming the operation that has no place in one map.
    """
    layout = _layout(graph, affine, entry, values)
    device = "cpu" if weights else "meta"
    type_ = graph.type_of(entry)
    start = identity(channels(type_, layout), spatial(type_, layout), device)
    forms = {entry: Form(start, None, layout)}
    for value in values:
        try:
            forms[value] = _step(graph, affine, value, forms, layout, device)
        except Refusal as refusal:
            raise refusal.at(value.node) from refusal
    return forms[values[-1]]


def _layout(graph: Graph, affine: Affine, entry: Value, values: list[Value]) -> Layout:
    if graph.type_of(entry).rank <= 2:
        return Layout.LAST
    found = next((affine.nodes[v].layout for v in values if affine.nodes[v].layout), None)
    clash = next((v for v in values if affine.nodes[v].layout not in (None, found)), None)
    if clash is not None:
        raise Refusal("it takes channels on another axis than the operations before it", clash.node)
    return layout_of(graph.type_of(entry), found)


def _step(
    graph: Graph, affine: Affine, value: Value, forms: dict[Value, Form], layout: Layout, device: str
) -> Form:
    node = affine.nodes[value]
    if node.build is None:
        return _sum([(forms[t.value], t) for t in node.terms], value)
    source = forms[node.terms[0].value]
    taps, shift = node.build(spatial(graph.type_of(node.terms[0].value), layout))
    if device == "meta":
        # Whether a shift is uniform shows only with weights; without them it is taken to be.
        taps = replace_weight(taps, taps.weight.to("meta"))
        shift = None if shift is None else torch.empty(len(shift), dtype=torch.float64, device="meta")
    moved = push(taps, source.shift)
    return _noted(compose(source.taps, taps), plus(moved, shift), layout, source.uneven, value)


def _sum(parts: list[tuple[Form, Term]], value: Value) -> Form:
    first, term = parts[0]
    taps, shift = scaled(first.taps, term.factor), plus(None, first.shift, term.factor)
    uneven = first.uneven
    for part, term in parts[1:]:
        taps = add(taps, scaled(part.taps, term.factor))
        shift = plus(shift, part.shift, term.factor)
        uneven = uneven or part.uneven
    return _noted(taps, shift, first.layout, uneven, value)


def _noted(taps: TapMap, shift: Shift, layout: Layout, uneven: str, value: Value) -> Form:
    is_map = isinstance(shift, torch.Tensor) and shift.dim() > 1
    return Form(taps, shift, layout, (uneven or value.node) if is_map else "")
