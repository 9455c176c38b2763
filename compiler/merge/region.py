"""Regions: where affine structure begins, rejoins and ends.

Over the affine operations, each value has an immediate dominator: the nearest value that every
path from the region's entry passes. A unary operation's is its operand; an add's is the nearest
common dominator of its terms, and where the terms come from different entries the sum itself
begins a new region. Backwards, a value's immediate post-dominator is where all its readers'
paths meet again; a value whose paths do not meet (it is read by a barrier, or leaves the graph) is
a *root*: it must be computed whatever happens.

A root's *chain* is its dominators back to the nearest other root or to the entry. Every pair
`chain[i] .. chain[j]` is a candidate region with one entry and one exit. All walks are linear in
the size of the regions met.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from compiler.ir.graph import Graph, Value
from compiler.merge.affine_ops import AffineNode, affine


@dataclass
class Tree:
    """Parents and depths of a dominator tree over values; entries have no parent."""

    parent: dict[Value, Value] = field(default_factory=dict)
    depth: dict[Value, int] = field(default_factory=dict)

    def attach(self, value: Value, parent: Value) -> None:
        """Put a value under its parent."""
        self.parent[value] = parent
        self.depth[value] = self.depth.get(parent, 0) + 1

    def meet(self, a: Value, b: Value) -> Value | None:
        """Return the nearest common ancestor, or None where the trees differ."""
        while a != b:
            if self.depth.get(a, 0) < self.depth.get(b, 0):
                a, b = b, a
            if a not in self.parent:
                return None
            a = self.parent[a]
        return a


@dataclass(frozen=True)
class Affine:
    """The affine structure of a graph: its operations, dominators and roots in order."""

    nodes: dict[Value, AffineNode]
    dominators: Tree
    roots: dict[Value, None]  # an ordered set

    def chain(self, root: Value) -> list[Value]:
        """Return [entry, ..., root]: the dominators back to the nearest root or entry."""
        return self.path(None, root)

    def path(self, entry: Value | None, value: Value) -> list[Value]:
        """Return [..., value]: its dominators from `entry` (None: the structure's) or a nearer root."""
        path = [value]
        while path[-1] != entry and path[-1] in self.dominators.parent:
            path.append(self.dominators.parent[path[-1]])
            if path[-1] in self.roots:
                break
        return path[::-1]

    def entry(self, value: Value) -> Value:
        """Return where the affine structure that leads to a value begins."""
        while value in self.dominators.parent:
            value = self.dominators.parent[value]
        return value

    def between(self, entry: Value, exit_: Value) -> list[Value]:
        """Return the affine values on paths from `entry` (excluded) to `exit_`, in a topological order."""
        order: list[Value] = []
        seen = {entry}
        work: list[tuple[Value, bool]] = [(exit_, False)]
        while work:
            value, done = work.pop()
            if done:
                order.append(value)
            elif value not in seen:
                seen.add(value)
                work.append((value, True))
                work.extend((term, False) for term in self.nodes[value].terms)
        return order


def affine_structure(graph: Graph) -> Affine:
    """Return the affine operations of a graph with their dominators and roots."""
    nodes: dict[Value, AffineNode] = {}
    dominators = Tree()
    for value in _values(graph):
        found = affine(graph, value)
        if found is None:
            continue
        meet: Value | None = found.terms[0]
        for term in found.terms[1:]:
            meet = meet and dominators.meet(meet, term)
        if meet is not None:
            nodes[value] = found
            dominators.attach(value, meet)
    return Affine(nodes, dominators, _roots(graph, nodes))


def _values(graph: Graph) -> Iterator[Value]:
    for node in graph.nodes():
        for index in range(len(node.types)):
            yield Value(node.name, index)


def readers(graph: Graph, value: Value) -> list[Value]:
    """Return the values that are made directly from a value, each once; the output counts as one.

    Complex values stand inside an operation through a spectrum, and are passed over.
    """
    found: dict[Value, None] = {}
    for node, _ in graph.uses(value):
        made = [Value(node.name, i) for i in range(len(node.types)) if graph.uses(Value(node.name, i))]
        for result in made or [Value(node.name)]:
            inner = made and node.types[result.index].dtype.is_complex
            found |= dict.fromkeys(readers(graph, result) if inner else [result])
    return list(found)


def _roots(graph: Graph, nodes: dict[Value, AffineNode]) -> dict[Value, None]:
    """Return the values whose readers' paths do not meet again, in topological order."""
    end = Value("")
    after = Tree()
    order = list(nodes)
    for value in reversed(order):
        made = readers(graph, value)
        if not made or any(r not in nodes for r in made):
            after.attach(value, end)
            continue
        meet = made[0]
        for reader in made[1:]:
            found = after.meet(meet, reader)
            assert found is not None  # every path ends at `end`
            meet = found
        after.attach(value, meet)
    return dict.fromkeys(v for v in order if after.parent[v] == end)
