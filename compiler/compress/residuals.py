"""Residual branches: additions of a value and of what was computed from it.

    z = x + f(x)          attention, feed-forward, the blocks of a residual network
    z = x + f(x) + g(x)   parallel sublayers: g's input is a term of what it is added to

The branch is the operand that an addend of the other operand reaches. Both have the type of the sum, so
that leaving the branch out changes no shape. What dies with it is what nothing else reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.ir.sums import is_sum

_WORK = ("conv", "linear", "mm", "bmm", "matmul", "addmm", "baddbmm", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Residual:
    """An addition `add` of `skip` and `branch`; `nodes` are the operations only the branch needs."""

    add: str
    skip: Value
    branch: Value
    nodes: frozenset[str]
    origin: str


def residuals(graph: Graph) -> tuple[Residual, ...]:
    """Return the residual branches that hold weights or products, in topological order."""
    place = {n.name: i for i, n in enumerate(graph.nodes())}
    found = (_residual(graph, node, place) for node in graph.ops() if is_sum(graph, node))
    return tuple(r for r in found if r is not None)


def _residual(graph: Graph, node: Node, place: dict[str, int]) -> Residual | None:
    both: tuple[Value, Value] = node.operand("self"), node.operand("other")
    for skip, branch in (both, both[::-1]):
        addends = set(_addends(graph, skip))
        if branch not in addends and _reaches(graph, addends, branch, place):
            nodes = _dying(graph, node, skip, branch)
            if any(_works(graph.node(name)) for name in nodes):
                return Residual(node.name, skip, branch, nodes, _origin(graph, branch, nodes) or node.origin)
    return None


def _addends(graph: Graph, value: Value) -> Iterator[Value]:
    """Yield a value and the terms of the sum it is: those of the nearest sums, no further than a branch."""
    yield value
    producer = graph.producer(value)
    if is_sum(graph, producer):
        yield producer.operand("self")
        yield producer.operand("other")


def _reaches(graph: Graph, sources: set[Value], value: Value, place: dict[str, int]) -> bool:
    """Tell whether a value is computed from one of the sources."""
    sources = {s for s in sources if graph.producer(s).kind in (Kind.OP, Kind.INPUT)}
    if not sources:
        return False
    first = min(place[s.node] for s in sources)
    work, seen = [value], set[str]()
    while work:
        name = work.pop().node
        if name in seen or place[name] < first:
            continue
        seen.add(name)
        for _, read in graph.node(name).values():
            if read in sources:
                return True
            work.append(read)
    return False


def _dying(graph: Graph, node: Node, skip: Value, branch: Value) -> frozenset[str]:
    """Return the operations that nothing reads once the addition does not read the branch."""
    dead, work = {node.name}, [branch.node]
    while work:
        name = work.pop()
        if name in (skip.node, *dead) or graph.node(name).kind is not Kind.OP:
            continue
        if all(reader.name in dead for reader in graph.users(name)):
            dead.add(name)
            work.extend(v.node for _, v in graph.node(name).values())
    return frozenset(dead - {node.name})


def _works(node: Node) -> bool:
    return node.op.split(".")[1].startswith(_WORK)


def _origin(graph: Graph, branch: Value, nodes: frozenset[str]) -> str:
    return graph.producer(branch).origin if branch.node in nodes else ""
