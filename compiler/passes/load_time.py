"""Generators in the place of weights that nothing changed, for a runtime that computes them at load.

Everything is folded first, so that no merge is given up: a generator comes back only where its result
still stands in the merged graph, bit for bit, and where it is much smaller (`compiler.passes.placement`).
A weight that a merge, a quantisation or another layout made over stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compiler.ir.edit import Editor, substitute
from compiler.ir.graph import Graph, Kind, Node, Operand, TensorType, Value
from compiler.passes.fold_weights import results
from compiler.passes.placement import Place, Placement, Threshold, loadable, placements
from compiler.passes.share import share
from compiler.passes.weight_only import cone, contents


def load_generators(
    graph: Graph, source: Graph, threshold: Threshold = Threshold()
) -> tuple[Graph, tuple[Placement, ...]]:
    """Return the graph with small generators in the place of their results, and every cone's placement.

    `source` is the graph as it was ahead of the folding.
    """
    standing = _standing(graph, source, loadable(source, threshold))
    placed = placements(source, standing, threshold)
    loaded = {p.node for p in placed if p.place is Place.LOAD}
    return (_loaded(graph, source, standing, loaded) if loaded else graph), placed


def _standing(graph: Graph, source: Graph, roots: list[Node]) -> dict[str, str]:
    """Return cone -> constant of `graph`, for the cones whose one result stands there bit for bit."""
    alike: dict[TensorType, list[str]] = {}
    for node in graph.nodes():
        if node.kind is Kind.CONSTANT:
            alike.setdefault(node.type, []).append(node.name)
    found: dict[str, str] = {}
    single = [n for n in roots if len(n.types) == 1 and n.type in alike]
    for value, tensor in results(source, single).items():
        for name in alike[source.type_of(value)]:
            stored = graph.constants[name].tensor
            if stored is not None and torch.equal(stored, tensor):
                found[value.node] = name
    return found


def _loaded(graph: Graph, source: Graph, standing: Mapping[str, str], loaded: set[str]) -> Graph:
    """Put the cones `loaded` of the source in the place of their results."""
    editor = Editor(graph)
    stored = {root: name for root, name in standing.items() if root not in loaded}
    names = cone(source, loaded, stored)
    replaced = {standing[root] for root in loaded}
    first = next(n.name for n in graph.nodes() if n.name in {*replaced, *stored.values()})
    made = {Value(r): _constant(editor, n, first) for r, n in stored.items() if r in names}
    for node in source.nodes():
        if node.name in names and node.value not in made:
            _copy(editor, source, node, made, first)
    for root in loaded:
        editor.replace_uses(Value(standing[root]), made[Value(root)])
        editor.remove_unread([standing[root]])
    return share(editor.finish())


def _constant(editor: Editor, name: str, before: str) -> Value:
    """Return a constant of the graph further ahead; `share` makes one of the two."""
    node = editor.graph.node(name)
    return editor.constant(editor.graph.constants[name], name, node.origin, before=before)


def _copy(editor: Editor, source: Graph, node: Node, made: dict[Value, Value], before: str) -> None:
    """Write a node of the source ahead of the first weight that is replaced."""
    if node.kind is Kind.CONSTANT:
        made[node.value] = editor.constant(source.constants[node.name], node.name, node.origin, before=before)
        return
    operands: dict[str, Operand] = {}
    for key, operand in node.operands:
        for old in contents(node):
            operand = substitute(operand, old, made[old])
        operands[key] = operand
    value = editor.op(
        node.op, operands, node.types, node.name, origin=node.origin, source=node.source, before=before
    )
    made |= {Value(node.name, i): Value(value.node, i) for i in range(len(node.types))}
