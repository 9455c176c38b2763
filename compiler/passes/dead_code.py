"""Dead code: whatever neither the output nor a write effect reaches is removed; inputs stay."""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind


def dead_code(graph: Graph) -> Graph:
    """Return the graph without unreachable operations, constants and states."""
    live = {"output", *(n.name for n in graph.writes())}
    work = list(live)
    while work:
        for _, value in graph.node(work.pop()).values():
            if value.node not in live:
                live.add(value.node)
                work.append(value.node)
    dead = [n for n in graph.nodes() if n.name not in live and n.kind is not Kind.INPUT]
    if not dead:
        return graph
    editor = Editor(graph)
    for node in reversed(dead):
        editor.remove(node.name)
    return editor.finish()
