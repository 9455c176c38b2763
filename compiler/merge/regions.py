"""A graph's affine regions with their prices, computed on demand and remembered."""

from __future__ import annotations

from compiler.cost.counts import node_counts
from compiler.cost.roofline import Roofline
from compiler.ir.dims import hint
from compiler.ir.graph import Graph, Value
from compiler.merge.attempt import Refusal
from compiler.merge.emit import Step, emit, step_price
from compiler.merge.form import form
from compiler.merge.region import Affine, affine_structure
from compiler.merge.shift import uniform


class Regions:
    """One graph, its affine structure, and the price of every piece of it asked for so far."""

    def __init__(self, graph: Graph, roofline: Roofline) -> None:
        """Find the affine structure of a graph."""
        self.graph = graph
        self.roofline = roofline
        self.affine: Affine = affine_structure(graph)
        self._costs: dict[str, float] = {}
        self._emitted: dict[tuple[Value, Value], float | Refusal] = {}
        self.struck: dict[tuple[Value, Value], Refusal] = {}

    def cost(self, name: str) -> float:
        """Return the price of a node as it stands."""
        if name not in self._costs:
            self._costs[name] = self.roofline.cost(node_counts(self.graph, self.graph.node(name)))
        return self._costs[name]

    def steps(self, entry: Value, exit_: Value, weights: bool) -> list[Step]:
        """Return the operations that compute `exit_` from `entry`; raises Refusal."""
        values = self.affine.between(entry, exit_)
        found = form(self.graph, self.affine, entry, values, weights)
        try:
            shift = uniform(found.shift)
        except Refusal as refusal:
            raise refusal.at(found.uneven) from refusal
        types = self.graph.type_of(entry), self.graph.type_of(exit_)
        return emit(found.taps, shift, found.layout, *types, price=lambda s: self.price(s, entry))

    def price(self, steps: list[Step], entry: Value) -> float:
        """Return the price of steps that begin at `entry`."""
        type_ = self.graph.type_of(entry)
        shape = tuple(hint(self.graph, d) for d in type_.shape)
        return step_price(steps, shape, lambda d: hint(self.graph, d), type_.dtype.itemsize, self.roofline)

    def emitted(self, entry: Value, exit_: Value) -> float:
        """Return the price of the emitted form; raises Refusal.

        What a root inside the region keeps alive is that root's own cost, here and where it is kept.
        """
        key = (entry, exit_)
        if key in self.struck:
            raise self.struck[key]
        if key not in self._emitted:
            try:
                self._emitted[key] = self.price(self.steps(entry, exit_, weights=False), entry)
            except Refusal as refusal:
                self._emitted[key] = refusal
        found = self._emitted[key]
        if isinstance(found, Refusal):
            raise found
        return found

    def replaced(self, entry: Value, exit_: Value) -> list[str]:
        """Return the nodes that emitting a region makes dead: not what outsiders read, nor what feeds it."""
        values = self.affine.between(entry, exit_)
        inside = {v.node for v in values}
        live: set[str] = set()
        for value in reversed(values[:-1]):
            readers = {r.name for r in self.graph.users(value.node)}
            if not readers <= inside or readers & live:
                live.add(value.node)
        return [v.node for v in values if v.node not in live]
