"""Weight-only folding: what no input or state reaches is computed at build time.

A node is foldable when all it reads is constant and it draws no random numbers: a random-partition
MoE exports `randperm -> sort` without a data input, and folding it would freeze one random routing
(`merges.md` 1.10). The cone is computed in float64 and rounded once to the type it stands for;
where floats turn into integers or booleans (bucketing), the model's own precision decides, so that
no bucket moves. An `expand` is left in place: folding it would only store copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from compiler.evaluate import run_node, widen
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, Sym, Value
from compiler.ir.schema import is_random


def fold_weights(graph: Graph) -> Graph:
    """Return the graph with every weight-only cone replaced by its constant."""
    foldable = _foldable(graph)
    frontier = [n for n in graph.ops() if n.name in foldable and _needed(graph, n, foldable)]
    if not frontier:
        return graph
    cone = _cone(graph, frontier, foldable)
    exact = _run(graph, cone, None) if any(_discretizes(graph, n) for n in cone) else {}
    wide = _run(graph, cone, torch.float64)
    discrete = _downstream(graph, cone)
    editor = Editor(graph)
    for node in frontier:
        values = exact if node.name in discrete else wide
        for index, type_ in enumerate(node.types):
            if editor.graph.uses(Value(node.name, index)):
                tensor = values[Value(node.name, index)].to(type_.dtype).contiguous()
                constant = editor.constant(tensor, f"{node.name}_folded", node.origin, before=node.name)
                editor.replace_uses(Value(node.name, index), constant)
        editor.remove_unread([node.name])
    return editor.finish()


def _foldable(graph: Graph) -> set[str]:
    names: set[str] = set()

    def constant(node: Node) -> bool:
        return all(value.node in names for _, value in node.values())

    for node in graph.nodes():
        computed = node.kind is Kind.OP and not is_random(node.op) and not _symbolic(node.operands)
        if node.kind is Kind.CONSTANT or (computed and constant(node)):
            names.add(node.name)
    return names


def _symbolic(operand: Operand) -> bool:
    return isinstance(operand, Sym) or (isinstance(operand, tuple) and any(map(_symbolic, operand)))


def _needed(graph: Graph, node: Node, foldable: set[str]) -> bool:
    if node.op == "aten.expand.default":
        return False
    readers = graph.users(node.name)
    return any(r.name not in foldable or r.op == "aten.expand.default" for r in readers)


def _cone(graph: Graph, frontier: Iterable[Node], foldable: set[str]) -> list[Node]:
    names = {n.name for n in frontier}
    work = list(names)
    while work:
        for _, value in graph.node(work.pop()).values():
            if value.node not in names:
                names.add(value.node)
                work.append(value.node)
    return [n for n in graph.nodes() if n.name in names]


@torch.no_grad()
def _run(graph: Graph, cone: list[Node], dtype: torch.dtype | None) -> dict[Value, Any]:
    values: dict[Value, Any] = {}
    for node in cone:
        if node.kind is Kind.CONSTANT:
            tensor = graph.constants[node.name].tensor
            assert tensor is not None, f"constant {node.name!r} has no data"
            values[node.value] = widen(tensor, dtype)
        else:
            run_node(node, values, {}, dtype)
    return values


def _discretizes(graph: Graph, node: Node) -> bool:
    reads_floats = any(graph.type_of(v).dtype.is_floating_point for _, v in node.values())
    return node.kind is Kind.OP and reads_floats and not all(t.dtype.is_floating_point for t in node.types)


def _downstream(graph: Graph, cone: list[Node]) -> set[str]:
    """Return the nodes of the cone at or after a float -> integer step."""
    names: set[str] = set()
    for node in cone:
        if _discretizes(graph, node) or any(value.node in names for _, value in node.values()):
            names.add(node.name)
    return names
