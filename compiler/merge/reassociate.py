"""Sums in an order that lets branches of one input meet.

`(conv1(x) + y) + conv2(x)` hides a mergeable pair behind the order of its additions. Where a tree of
single-use additions holds terms of several entries, terms of the same entry are added first. Equal
over the reals; an order that already groups them is left as it is.
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.merge.region import Affine, affine_structure


def reassociate(graph: Graph) -> Graph:
    """Return the graph with mixed sums grouped by entry."""
    affine = affine_structure(graph)
    editor: Editor | None = None
    for node in graph.ops():
        if not _plain(node) or _inner(graph, node):
            continue
        terms = _terms(graph, node)
        groups = _groups(affine, terms)
        if len(groups) < 2 or all(len(g) == 1 for g in groups) or _adjacent(graph, groups):
            continue
        editor = editor or Editor(graph)
        total = _sum([_sum(g, node, editor) for g in groups], node, editor)
        editor.replace_uses(node.value, total)
        editor.remove_unread([node.name])
    return graph if editor is None else editor.finish()


def _plain(node: Node) -> bool:
    return (
        node.op == "aten.add.Tensor"
        and node.operand("alpha") == 1
        and isinstance(node.operand("other"), Value)
        and node.type.dtype.is_floating_point
    )


def _inner(graph: Graph, node: Node) -> bool:
    """Tell whether the node is a term of a larger plain sum of the same type and of nothing else."""
    uses = graph.uses(node.value)
    return len(uses) == 1 and _plain(uses[0][0]) and uses[0][0].type == node.type


def _terms(graph: Graph, node: Node) -> list[Value]:
    terms: list[Value] = []
    for operand in (node.operand("self"), node.operand("other")):
        producer = graph.producer(operand)
        inner = _plain(producer) and _inner(graph, producer) and producer.type == node.type
        terms += _terms(graph, producer) if inner else [operand]
    return terms


def _groups(affine: Affine, terms: list[Value]) -> list[list[Value]]:
    groups: dict[Value, list[Value]] = {}
    for term in terms:
        groups.setdefault(affine.entry(term), []).append(term)
    return list(groups.values())


def _adjacent(graph: Graph, groups: list[list[Value]]) -> bool:
    """Tell whether each group of two or more already is one sub-sum."""
    for group in groups:
        members = set(group)
        sums = 0
        work = list(group)
        while work:
            value = work.pop()
            uses = graph.uses(value)
            reader = uses[0][0] if len(uses) == 1 else None
            if reader is not None and _plain(reader):
                operands = {reader.operand("self"), reader.operand("other")}
                if operands <= members and reader.value not in members:
                    members.add(reader.value)
                    work.append(reader.value)
                    sums += 1
        if sums < len(group) - 1:
            return False
    return True


def _sum(terms: list[Value], node: Node, editor: Editor) -> Value:
    total = terms[0]
    for term in terms[1:]:
        operands = {"self": total, "other": term}
        total = editor.op(
            node.op, operands, node.types, origin=node.origin, source=node.source, before=node.name
        )
    return total
