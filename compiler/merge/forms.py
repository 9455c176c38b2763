"""The forms of a region's values, each from those before it."""

from __future__ import annotations

from dataclasses import replace

from compiler.ir.graph import Graph, Value
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form, entry_form, settled
from compiler.merge.region import Affine
from compiler.merge.unshuffle import unshuffled


def evaluate(
    graph: Graph,
    affine: Affine,
    entry: Value,
    values: list[Value],
    axis: int,
    weights: bool,
    commuting: bool = False,
    known: dict[Value, Form | Refusal] | None = None,
) -> dict[Value, Form | Refusal]:
    """Return the form of each of `values` relative to `entry`, or why it has none.

    Without `weights` the matrices live on the meta device: geometry and price for nothing. A refusal
    names the operation that has no place in one map, and spreads to what reads it. With `commuting`,
    operations that can go in front of a matrix do so rather than become part of it, and so do patches.
    `known` holds forms found before, and gains the new ones.
    """
    forms = {} if known is None else known
    if entry not in forms:
        try:
            forms[entry] = entry_form(graph, entry, axis, weights)
        except Refusal as refusal:
            forms[entry] = refusal.at(entry.node)
    for value in values:
        forms[value] = _form(affine, value, forms, commuting)
    return forms


def _form(
    affine: Affine, value: Value, forms: dict[Value, Form | Refusal], commuting: bool
) -> Form | Refusal:
    node = affine.nodes[value]
    apply = node.commuted if commuting and node.commuted else node.apply
    terms: list[Form] = []
    for term in node.terms:
        found = forms.get(term)
        if found is None:
            return Refusal("it mixes another value in", value.node)
        if isinstance(found, Refusal):
            return found
        terms.append(found)
    try:
        form = settled(apply(terms))
        if 0 in form.shape:
            raise Refusal("it holds no elements", quiet=True)
        if not commuting and form.arrangement is not None:
            form = unshuffled(form) or form
    except Refusal as refusal:
        return refusal.at(value.node)
    uneven = next((t.uneven for t in terms if t.uneven), "") or value.node
    is_map = form.shift is not None and form.shift.dim() > 1
    return replace(form, uneven=uneven if is_map else "")
