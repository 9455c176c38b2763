r"""Parallel experts under a random partition, recognised by structure and never by name.

    :math:`y_{\pi(j)} = f_{e(j)}(x_{\pi(j)})`,  e(j) the part of the random order :math:`\pi` that j falls in

Found from the end: rows in a random order, joined, are put back in their own order. From the joined
parts the E subgraphs are walked back in step. Each step must be the same operation with the same
literals, each constant must have its counterparts' shape and dtype, and each walk must end at the
rows that the partition gave this expert, or at a value that all experts share.

A partition that an input reaches is a router. Its experts have specialised, so that their mean is
no model of them: refused, with the node that routes. Source: EWA, arXiv 2308.06093.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from compiler.compress.random_rows import Cones, Facts, Order, Rows, cones, follow, index_of
from compiler.ir.graph import Graph, Kind, Node, Operand, Value, values_in
from compiler.ir.schema import draws
from compiler.merge.attempt import Refusal

SHAPES = ("shape", "size")  # literals that count rows, and so differ between parts of different size
_TAKES = ("aten.index.Tensor", "aten.index_select.default", "aten.gather.default")
_PUTS = ("aten.index_put.default", "aten.index_copy.default")
Together: TypeAlias = tuple[Value, ...]  # the same value of each expert


@dataclass(frozen=True)
class Part:
    """What one expert made of its rows."""

    value: Value
    order: Order


@dataclass(frozen=True)
class Experts:
    """E subgraphs of the same operations on parts of one random order, and where their rows return.

    `exit` is the value in which each row stands in its own place, `dim` the rows' dimension there;
    `steps` are the operations in topological order, one name for each expert; `entries` pairs the
    rows taken with the value they are taken from; `constants` are the weights to average.
    """

    exit: Value
    dim: int
    parts: tuple[Part, ...]
    steps: tuple[tuple[str, ...], ...]
    entries: tuple[tuple[Together, Value], ...]
    constants: tuple[Together, ...]

    @property
    def count(self) -> int:
        """The number of experts."""
        return len(self.parts)


def find_experts(graph: Graph) -> tuple[Experts, ...]:
    """Return all experts of a graph, in topological order.

    Raises Refusal with the node to blame where a random draw is left that is no such partition, or
    where there is none.
    """
    reached = cones(graph)
    facts = follow(graph, reached)
    found: list[Experts] = []
    refusals: list[Refusal] = []
    for exit_, dim, parts in _exits(graph, facts):
        try:
            found.append(_Walk(graph, facts, exit_, dim, parts).run())
        except Refusal as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[0]
    if not found:
        raise _why(graph, facts, reached)
    return tuple(found)


def _exits(graph: Graph, facts: Facts) -> Iterator[tuple[Value, int, tuple[Part, ...]]]:
    """Yield (value, dimension, parts) where all rows return to their own places."""
    for node in graph.ops():
        found = index_of(node) if node.op in (*_TAKES, *_PUTS) else None
        order = facts.get(found[0]) if found else None
        if found is None or not isinstance(order, Order):
            continue
        dim = found[1] % node.type.rank
        if node.op in _PUTS:
            parts = _put_parts(graph, facts, node, dim)
        else:
            parts = _joined(graph, node.operand("self"), dim, order.inverted() if order.whole else None)
        if len(parts) > 1:
            yield node.value, dim, parts


def _joined(graph: Graph, value: Value, dim: int, order: Order | None) -> tuple[Part, ...]:
    """Return the parts of a concatenation that holds all rows in this order; none where it does not."""
    node = graph.producer(value)
    joins = node.op == "aten.cat.default" and node.operand("dim") % node.type.rank == dim
    if order is None or not joins or node.type.shape[dim] != order.size:
        return ()
    parts, start = [], 0
    for part in node.operand("tensors"):
        length = graph.type_of(part).shape[dim]
        if not isinstance(length, int):
            return ()
        parts.append(Part(part, order.part(start, start + length)))
        start += length
    return tuple(parts)


def _put_parts(graph: Graph, facts: Facts, last: Node, dim: int) -> tuple[Part, ...]:
    """Return the parts that a chain of writes puts at all rows' places; none where some row is missed."""
    parts: list[Part] = []
    node = last
    while node.op in _PUTS and not node.operand("accumulate"):
        index = index_of(node)
        order = facts.get(index[0]) if index and index[1] % node.type.rank == dim else None
        if not isinstance(order, Order):
            break
        values = node.operand("values", node.operand("source"))
        parts += _joined(graph, values, dim, order if order.whole else None) or [Part(values, order)]
        node = graph.producer(node.operand("self"))
    parts.sort(key=lambda part: part.order.start)
    ends = [0, *(part.order.stop for part in parts)]
    gapless = [part.order.start for part in parts] == ends[:-1]
    one_order = len({(part.order.draw, part.order.inverse) for part in parts}) == 1
    return tuple(parts) if gapless and one_order and ends[-1] == parts[0].order.size else ()


class _Walk:
    """One walk back through E subgraphs in step; lives only inside `find_experts`."""

    def __init__(self, graph: Graph, facts: Facts, exit_: Value, dim: int, parts: tuple[Part, ...]) -> None:
        self.graph, self.facts = graph, facts
        self.exit, self.dim, self.parts = exit_, dim, parts
        self.steps: dict[str, tuple[str, ...]] = {}  # by the first expert's name
        self.entries: dict[Together, Value] = {}
        self.constants: dict[Together, None] = {}

    def run(self) -> Experts:
        work: list[Together] = [tuple(part.value for part in self.parts)]
        seen: set[Together] = set()
        while work:
            values = work.pop()
            if values not in seen:
                seen.add(values)
                work.extend(self._step(values))
        order = [self.steps[n.name] for n in self.graph.ops() if n.name in self.steps]
        entries, constants = tuple(self.entries.items()), tuple(self.constants)
        return Experts(self.exit, self.dim, self.parts, tuple(order), entries, constants)

    def _step(self, values: Together) -> list[Together]:
        """Take one value of each expert a step back, and return what is to be walked next."""
        nodes = [self.graph.producer(v) for v in values]
        known = [self.facts.get(v) for v in values]
        if all(isinstance(fact, Rows) for fact in known):
            self.entries[values] = self._entry(values)
        elif len(set(values)) == 1:
            return []  # shared by all experts
        elif all(n.kind is Kind.CONSTANT for n in nodes):
            self._constant(values)
        else:
            return self._operation(values, nodes)
        return []

    def _entry(self, values: Together) -> Value:
        rows = [fact for fact in map(self.facts.get, values) if isinstance(fact, Rows)]
        for fact, part, value in zip(rows, self.parts, values, strict=True):
            if fact.order != part.order:
                raise Refusal("an expert's rows are put back in other places than its own", value.node)
            if (fact.source, fact.dim) != (rows[0].source, rows[0].dim):
                raise Refusal("the experts take their rows from different values", value.node)
        return rows[0].source

    def _constant(self, values: Together) -> None:
        types = [self.graph.type_of(v) for v in values]
        for value, type_ in zip(values, types, strict=True):
            if type_ != types[0]:
                reason = f"weights of different shapes have no mean: {types[0]} and {type_}"
                raise Refusal(reason, value.node)
        self.constants[values] = None

    def _operation(self, values: Together, nodes: Sequence[Node]) -> list[Together]:
        first, names = nodes[0], tuple(n.name for n in nodes)
        for node, value in zip(nodes, values, strict=True):
            if (node.kind, node.op, value.index) != (Kind.OP, first.op, values[0].index):
                raise Refusal(f"the experts differ: {_name(first)} and {_name(node)}", node.name)
            if difference := _difference(first, node):
                raise Refusal(f"the experts differ in {difference} of {_name(node)}", node.name)
        if self.steps.setdefault(first.name, names) != names:
            raise Refusal("the experts share an operation in different ways", first.name)
        reads = [[v for _, v in node.values()] for node in nodes]
        return list(zip(*reads, strict=True))


def _difference(first: Node, node: Node) -> str | None:
    """Return the operand in which two nodes differ other than in the values they read."""
    for (key, one), (_, other) in zip(first.operands, node.operands, strict=True):
        same = len(one) == len(other) if key in SHAPES else _literals(one) == _literals(other)
        if not same:
            return key
    return None


def _literals(operand: Operand) -> Operand:
    if isinstance(operand, tuple):
        return tuple(map(_literals, operand))
    return Value if isinstance(operand, Value) else operand


def _name(node: Node) -> str:
    return node.op.split(".")[1] if node.op else node.kind.value


def _why(graph: Graph, facts: Facts, reached: Cones) -> Refusal:
    """Return why a graph has no experts, with the node to blame."""
    for reason in (_routed, _no_order, _never_back):
        if refusal := reason(graph, facts, reached):
            return refusal
    return Refusal("nothing draws random numbers, so that there is no random partition into experts")


Reason: TypeAlias = Callable[[Graph, Facts, Cones], Refusal | None]


def _indices(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Yield (reader, producer) for each value that indexes rows."""
    for node in graph.ops():
        if node.op in (*_TAKES, *_PUTS):
            for key in ("indices", "index"):
                for _, value in values_in(node.operand(key)):
                    yield node, graph.producer(value)


def _routed(graph: Graph, facts: Facts, reached: Cones) -> Refusal | None:
    for reader, index in _indices(graph):
        if index.name in reached.data:
            reason = (
                f"the rows of {reader.name!r} are chosen by {_name(index)}, which depends on the input: a "
                "router's experts have specialised and are not averaged"
            )
            return Refusal(reason, index.name)
    return None


def _no_order(graph: Graph, facts: Facts, reached: Cones) -> Refusal | None:
    for reader, index in _indices(graph):
        known = any(v.node == index.name and isinstance(facts[v], Order) for v in facts)
        if index.name in reached.random and not known:
            return Refusal(f"{reader.name!r} chooses rows at random, but not in an order of all", index.name)
    return None


def _never_back(graph: Graph, facts: Facts, reached: Cones) -> Refusal | None:
    for node in graph.ops():
        if draws(node):
            reason = "no rows are taken in a random order and, part for part, put back in their own places"
            return Refusal(reason, node.name)
    return None
