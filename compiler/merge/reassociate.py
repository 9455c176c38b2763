"""Sums in an order that lets branches of one input meet.

`(conv1(x) + y) + conv2(x)` hides a mergeable pair behind the order of its additions. Where a tree of
single-use additions holds terms of several entries, terms of the same entry are added first. Equal
over the reals; an order that already groups them is left as it is.
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.sums import is_inner, is_sum, terms
from compiler.merge.region import Affine, affine_structure


def reassociate(graph: Graph) -> Graph:
    """Return the graph with mixed sums grouped by entry."""
    affine = affine_structure(graph)
    editor: Editor | None = None
    renamed: dict[Value, Value] = {}
    for node in graph.ops():
        if not is_sum(graph, node) or is_inner(graph, node):
            continue
        groups = _groups(affine, terms(graph, node))
        if len(groups) < 2 or all(len(g) == 1 for g in groups) or _adjacent(graph, groups):
            continue
        editor = editor or Editor(graph)
        parts = [_sum([renamed.get(t, t) for t in g], node, editor) for g in groups]
        total = _sum(parts, node, editor)
        renamed[node.value] = total
        editor.replace_uses(node.value, total)
        editor.remove_unread([node.name])
    return graph if editor is None else editor.finish()


def _groups(affine: Affine, addends: list[Value]) -> list[list[Value]]:
    groups: dict[Value, list[Value]] = {}
    for term in addends:
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
            if reader is not None and is_sum(graph, reader):
                operands = {reader.operand("self"), reader.operand("other")}
                if operands <= members and reader.value not in members:
                    members.add(reader.value)
                    work.append(reader.value)
                    sums += 1
        if sums < len(group) - 1:
            return False
    return True


def _sum(parts: list[Value], node: Node, editor: Editor) -> Value:
    total = parts[0]
    for term in parts[1:]:
        operands = {"self": total, "other": term}
        total = editor.ahead_of(node, node.op, operands)
    return total
