"""Trees of additions: sums of values of one type that are read once, as one flat sum."""

from __future__ import annotations

from compiler.ir.graph import Graph, Node, Value


def is_sum(graph: Graph, node: Node) -> bool:
    """Tell whether a node adds two floating values of its own type, with no factor."""
    if node.op != "aten.add.Tensor" or node.operand("alpha") != 1 or not node.type.dtype.is_floating_point:
        return False
    both = (node.operand("self"), node.operand("other"))
    return all(isinstance(v, Value) and graph.type_of(v) == node.type for v in both)


def is_inner(graph: Graph, node: Node) -> bool:
    """Tell whether a sum is a term of a larger one and of nothing else."""
    uses = graph.uses(node.value)
    return len(uses) == 1 and is_sum(graph, uses[0][0])


def terms(graph: Graph, node: Node) -> list[Value]:
    """Return the terms of a sum, those of inner sums in their place."""
    found: list[Value] = []
    for operand in (node.operand("self"), node.operand("other")):
        producer = graph.producer(operand)
        inner = is_sum(graph, producer) and is_inner(graph, producer)
        found += terms(graph, producer) if inner else [operand]
    return found
