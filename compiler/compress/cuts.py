"""Where a graph is one value wide: all that the inputs reach goes through there."""

from __future__ import annotations

from compiler.ir.graph import Graph, Kind, Value


def cuts(graph: Graph) -> tuple[Value, ...]:
    """Return the floating values that all data goes through, in topological order.

    The graph's inputs are none, nor is what only relabels a result. A graph with states has none: a state
    goes past every cut.
    """
    if any(n.kind is Kind.STATE for n in graph.nodes()):
        return ()
    live: dict[Value, int] = {n.value: len(set(_readers(graph, n.value))) for n in graph.inputs()}
    reached = {n.name for n in graph.inputs()}
    found = []
    for node in graph.ops():
        read = {v for _, v in node.values() if v.node in reached}
        if not read:
            continue
        reached.add(node.name)
        for value in read:
            live[value] -= 1
            if not live[value]:
                del live[value]
        made = [Value(node.name, i) for i in range(len(node.types))]
        live |= {v: len(readers) for v in made if (readers := set(_readers(graph, v)))}
        if list(live) == made[:1] and node.type.dtype.is_floating_point:
            found.append(made[0])
    return tuple(found)


def _readers(graph: Graph, value: Value) -> list[str]:
    return [reader.name for reader, _ in graph.uses(value)]
