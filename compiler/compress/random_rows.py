r"""Rows in a random order, followed through a graph.

A draw that no input reaches fixes a permutation :math:`\pi` of N rows. Two facts about values are
followed from there, which is all a random partition is made of:

    Order   :math:`(\pi(a), \dots, \pi(b-1))` or the same of :math:`\pi^{-1}`, a vector of integers
    Rows    :math:`x_{\pi(a)}, \dots, x_{\pi(b-1)}`, the rows of x in that order, along one dimension

with `randperm` and the sorting of random numbers giving an order, sorting an order its inverse,
`index` rows, and `split` and `slice` parts of either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from compiler.ir.graph import Graph, Kind, Node, Operand, Value
from compiler.ir.schema import draws


@dataclass(frozen=True)
class Order:
    """Entries `start` to `stop` of a random order of `size` rows, or of the inverse of it."""

    draw: str
    size: int
    start: int
    stop: int
    inverse: bool = False

    @property
    def whole(self) -> bool:
        """Whether all rows are there."""
        return (self.start, self.stop) == (0, self.size)

    def inverted(self) -> Order:
        """Return the inverse of a whole order."""
        return dataclasses.replace(self, inverse=not self.inverse)

    def part(self, start: int, stop: int) -> Order:
        """Return entries `start` to `stop` of these."""
        return dataclasses.replace(self, start=self.start + start, stop=self.start + stop)


@dataclass(frozen=True)
class Rows:
    """The rows of `source` along `dim`, in an order."""

    source: Value
    dim: int
    order: Order


Fact: TypeAlias = Order | Rows
Facts: TypeAlias = Mapping[Value, Fact]


@dataclass(frozen=True)
class Cones:
    """The names of what reads a random draw, and of what reads an input or a state."""

    random: frozenset[str]
    data: frozenset[str]


def cones(graph: Graph) -> Cones:
    """Return what random draws and what data reach."""
    random: set[str] = set()
    data: set[str] = set()
    for node in graph.nodes():
        read = {value.node for _, value in node.values()}
        if draws(node) or read & random:
            random.add(node.name)
        if node.kind in (Kind.INPUT, Kind.STATE) or read & data:
            data.add(node.name)
    return Cones(frozenset(random), frozenset(data))


def follow(graph: Graph, reached: Cones) -> Facts:
    """Return what is known of each value that is an order, or rows in one."""
    facts: dict[Value, Fact] = {}
    for node in graph.ops():
        rule = _RULES.get(node.op)
        if rule is not None and node.name in reached.random:
            facts.update(rule(graph, node, facts, reached))
    return facts


def index_of(node: Node) -> tuple[Value, int] | None:
    """Return the one index vector of an indexing operation and the dimension it indexes, if it has one."""
    if node.op in ("aten.index_select.default", "aten.index_copy.default"):
        return node.operand("index"), node.operand("dim")
    indices = node.operand("indices", ())
    given = [(value, dim) for dim, value in enumerate(indices) if value is not None]
    return given[0] if len(given) == 1 else None


Found: TypeAlias = Iterator[tuple[Value, Fact]]


def _randperm(graph: Graph, node: Node, facts: Facts, reached: Cones) -> Found:
    size = node.operand("n")
    if isinstance(size, int):
        yield node.value, Order(node.name, size, 0, size)


def _sort(graph: Graph, node: Node, facts: Facts, reached: Cones) -> Found:
    """Sorting the places of a whole order inverts it; sorting random numbers draws one."""
    source = node.operand("self")
    type_, known = graph.type_of(source), facts.get(source)
    if type_.rank != 1 or not type_.static or node.name in reached.data:
        return
    size = type_.elements()
    order = Order(node.name, size, 0, size)
    if isinstance(known, Order) and known.whole and not node.operand("descending"):
        order = known.inverted()
    yield Value(node.name, len(node.types) - 1), order


def _split(graph: Graph, node: Node, facts: Facts, reached: Cones) -> Found:
    start = 0
    for index, type_ in enumerate(node.types):
        length = type_.shape[node.operand("dim") % type_.rank]
        if not isinstance(length, int):
            return
        yield from _part(node, facts, Value(node.name, index), start, start + length)
        start += length


def _slice(graph: Graph, node: Node, facts: Facts, reached: Cones) -> Found:
    length = node.type.shape[node.operand("dim") % node.type.rank]
    start = node.operand("start") or 0
    if node.operand("step") != 1 or not isinstance(start, int) or not isinstance(length, int):
        return
    whole = graph.type_of(node.operand("self")).shape[node.operand("dim") % node.type.rank]
    if isinstance(whole, int):
        start = max(start + whole, 0) if start < 0 else min(start, whole)
        yield from _part(node, facts, node.value, start, start + length)


def _part(node: Node, facts: Facts, value: Value, start: int, stop: int) -> Found:
    known, dim = facts.get(node.operand("self")), node.operand("dim")
    if isinstance(known, Order):
        yield value, known.part(start, stop)
    elif isinstance(known, Rows) and known.dim == dim % node.types[0].rank:
        yield value, dataclasses.replace(known, order=known.order.part(start, stop))


def _take(graph: Graph, node: Node, facts: Facts, reached: Cones) -> Found:
    found = index_of(node)
    known = facts.get(found[0]) if found else None
    if found and isinstance(known, Order):
        yield node.value, Rows(node.operand("self"), found[1] % node.type.rank, known)


def _put(graph: Graph, node: Node, facts: Facts, reached: Cones) -> Found:
    """`inverse[order] = arange(N)` inverts an order."""
    found = index_of(node)
    known = facts.get(found[0]) if found else None
    if isinstance(known, Order) and known.whole and _counts(graph, node.operand("values"), known.size):
        yield node.value, known.inverted()


def _counts(graph: Graph, operand: Operand, size: int) -> bool:
    """Tell whether a value is 0, 1, ..., size - 1."""
    stored = graph.constant(operand)
    return stored is not None and stored.tolist() == list(range(size))


Rule: TypeAlias = Callable[[Graph, Node, Facts, Cones], Found]
_RULES: dict[str, Rule] = {
    "aten.randperm.default": _randperm,
    "aten.sort.default": _sort,
    "aten.sort.stable": _sort,
    "aten.argsort.default": _sort,
    "aten.argsort.stable": _sort,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.slice.Tensor": _slice,
    "aten.index.Tensor": _take,
    "aten.index_select.default": _take,
    "aten.index_put.default": _put,
}
