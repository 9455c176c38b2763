"""A graph's affine regions with their programs and prices, computed on demand and remembered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from compiler.cost.counts import node_counts
from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import Roofline
from compiler.ir.graph import Graph, TensorType, Value
from compiler.merge.attempt import Refusal
from compiler.merge.describe import describe_form
from compiler.merge.emit import programs
from compiler.merge.form import Form
from compiler.merge.forms import evaluate
from compiler.merge.price import Price, program_counts
from compiler.merge.region import Affine, affine_structure, readers
from compiler.merge.site import site
from compiler.merge.step import Program

Pair = tuple[Value, Value]


class Regions:
    """One graph, its affine structure, and the price of every piece of it asked for so far."""

    def __init__(
        self,
        graph: Graph,
        prior: Roofline,
        table: LatencyTable | None = None,
        keep: Collection[str] = (),
        certain: bool = False,
        apart: Collection[str] = (),
        splits: bool = False,
    ) -> None:
        """Find the affine structure of a graph; sites in `keep` stay as they are, sums at those in `apart`.

        With `certain`, only what needs no price is emitted: fewer operations, no more arithmetic, no more
        bytes. With `splits`, or prices that can judge them, sums of smaller convolutions are candidates.
        """
        self.graph = graph
        self.price = Price(graph, prior)
        self.measured = Price(graph, prior, table) if table is not None else None
        self.keep, self.apart = keep, apart
        self.certain = certain
        self.judged = splits or table is not None
        self.splits = self.judged or prior.depthwise_taps is not None
        self.affine: Affine = affine_structure(graph)
        self._forms: dict[tuple[Value, int, bool], dict[Value, Form | Refusal]] = {}
        self._programs: dict[Pair, list[Program] | Refusal] = {}
        self.real: dict[Pair, Program] = {}
        self.struck: dict[Pair, Refusal] = {}
        self.uneven: dict[Pair, Refusal] = {}

    def type(self, value: Value) -> TensorType:
        """Return the type of a value."""
        return self.graph.type_of(value)

    def candidates(self, entry: Value, exit_: Value) -> list[Program]:
        """Return the programs that compute `exit_` from `entry`, without weights; raises Refusal."""
        key = (entry, exit_)
        if key in self.struck:
            raise self.struck[key]
        if key in self.real:
            return [self.real[key]]
        if key not in self._programs:
            try:
                self._programs[key] = self._all(entry, exit_, weights=False)
            except Refusal as refusal:
                self._programs[key] = refusal
        found = self._programs[key]
        if isinstance(found, Refusal):
            raise found
        return found

    def written(self, entry: Value, exit_: Value) -> list[Program]:
        """Return the programs that a region has been weighed in so far, without weights."""
        found = self._programs.get((entry, exit_), [])
        return [] if isinstance(found, Refusal) else found

    def realised(self, entry: Value, exit_: Value, price: Price) -> Program:
        """Return the cheapest program with its weights; raises Refusal where real weights forbid it."""
        key = (entry, exit_)
        if key not in self.real:
            found = self._all(entry, exit_, weights=True)
            cheapest = min(found, key=lambda p: price.program(p, self.type(entry)))
            if not _finite(cheapest):
                raise Refusal(
                    "an infinite constant takes part, of which sums and products may be no numbers",
                    exit_.node,
                )
            self.real[key] = cheapest
        return self.real[key]

    def forget(self) -> None:
        """Drop all forms and programs: the regions they are for have been dealt with."""
        for known in (self._forms, self._programs, self.real, self.struck, self.uneven):
            known.clear()

    def _all(self, entry: Value, exit_: Value, weights: bool) -> list[Program]:
        found: list[Program] = []
        refusals: list[Refusal] = []
        for axis in _axes(self.type(entry).rank):
            for commuting in (False, True):
                try:
                    form = self.form(entry, exit_, axis, commuting, weights)
                    self._note(entry, exit_, form)
                    written = programs(self.graph, form, self.type(exit_), self.splits)
                    found += [replace(p, found=describe_form(form)) for p in written]
                except Refusal as refusal:
                    refusals.append(refusal.at(exit_.node))
                if not self._commutes(entry, exit_, axis):
                    break
            if found:
                return found
        raise min(refusals, key=lambda r: r.quiet)

    def _note(self, entry: Value, exit_: Value, form: Form) -> None:
        """Remember that a shift is no bias here, whatever way around it the price then finds."""
        if form.real and form.shift is not None and form.shift.dim() > 1:
            self.uneven[entry, exit_] = Refusal(
                "shift before zero fill: a bias or a normalisation's shift in front of a zero-padded "
                "operation reaches border outputs only in part, so it is no bias of the merged operation",
                form.uneven,
            )

    def form(self, entry: Value, exit_: Value, axis: int, commuting: bool, weights: bool) -> Form:
        """Return the form of `exit_` relative to `entry`; raises Refusal."""
        values = self.affine.between(entry, exit_)
        if weights:
            forms = evaluate(self.graph, self.affine, entry, values, axis, True, commuting)
        else:
            forms = self._forms.setdefault((entry, axis, commuting), {})
            new = [v for v in values if v not in forms]
            evaluate(self.graph, self.affine, entry, new, axis, False, commuting, forms)
        found = forms[exit_]
        if isinstance(found, Refusal):
            raise found
        return found

    def _commutes(self, entry: Value, exit_: Value, axis: int) -> bool:
        """Tell whether an operation of a region can go in front of its matrices too."""
        values = self.affine.between(entry, exit_)
        forms = self._forms.get((entry, axis, False), {})
        patched = (isinstance(f := forms.get(v), Form) and f.unshuffled for v in values)
        return any(self.affine.nodes[v].commuted for v in values) or any(patched)

    def emitted(self, entry: Value, exit_: Value, price: Price) -> tuple[float, Program]:
        """Return the cheapest program and its price; raises Refusal.

        What a root inside the region keeps alive is that root's own cost, here and where it is kept.
        """
        options = self.candidates(entry, exit_)
        costs = [price.program(p, self.type(entry)) for p in options]
        best = min(range(len(costs)), key=costs.__getitem__)
        self._check_shared(entry, exit_, options[best])
        self._check_wanted(entry, exit_, options[best])
        return costs[best], options[best]

    def _check_shared(self, entry: Value, exit_: Value, program: Program) -> None:
        """Raise where the region would store a weight again that something outside reads too."""
        if not any(isinstance(o, torch.Tensor) for s in program.steps for o in s.operands.values()):
            return
        inside = {v.node for v in self.affine.between(entry, exit_)}
        for name in inside:
            for _, value in self.graph.node(name).values():
                weight = self.graph.constant(value)
                if weight is None or weight.numel() <= max(weight.shape, default=1):
                    continue
                others = [r.name for r in self.graph.users(value.node) if r.name not in inside]
                others = [r for r in others if not self._same_fold(entry, exit_, name, r)]
                if others:
                    size = weight.numel() * weight.element_size()
                    raise Refusal(
                        f"un-shares {value.node!r}: its {size} bytes are read by {others[0]!r} too, and "
                        "would be stored a second time",
                        name,
                    )

    def _same_fold(self, entry: Value, exit_: Value, name: str, other: str) -> bool:
        """Tell whether another reader of a weight folds into the very same weight: they stay one."""
        nodes = self.affine.nodes
        here, there = exit_, Value(other)
        types = self.graph.node(other).types  # none where it stores a state
        if name != exit_.node or not types or self.type(here) != types[0]:
            return False
        while here != entry:
            if here not in nodes or there not in nodes or self._call(here) != self._call(there):
                return False
            if len(nodes[here].terms) != 1 or len(nodes[there].terms) != 1:
                return False
            here, there = nodes[here].terms[0], nodes[there].terms[0]
        return self.type(here) == self.type(there)

    def _call(self, value: Value) -> tuple[object, ...]:
        """Return an operation with everything it is called with but its data."""
        node = self.graph.node(value.node)
        data = self.affine.nodes[value].terms
        return node.op, tuple((k, o) for k, o in node.operands if o not in data)

    def _check_wanted(self, entry: Value, exit_: Value, program: Program) -> None:
        names = [v.node for v in self.affine.between(entry, exit_)]
        if self.keep and site(self.graph, names) in self.keep:
            raise Refusal("its site is to stay as it is", quiet=True)
        if self.apart and site(self.graph, names) in self.apart and self._sums(entry, exit_):
            raise Refusal("its branches are to stay apart", quiet=True)
        if self.certain and not self.dominates(entry, exit_, program):
            raise Refusal("whether it is cheaper is for a price to say", quiet=True)

    def _sums(self, entry: Value, exit_: Value) -> bool:
        """Tell whether a region adds up several values that are computed from its entry."""
        inside = {entry, *self.affine.between(entry, exit_)}
        return any(len(inside.intersection(self.affine.nodes[v].terms)) > 1 for v in inside - {entry})

    def dominates(self, entry: Value, exit_: Value, program: Program) -> bool:
        """Tell whether a program is no worse in any respect than what it replaces, and better in one."""
        before = [node_counts(self.graph, self.graph.node(n)) for n in self.replaced(entry, exit_)]
        after = program_counts(program, self.type(entry), self.price.size)
        pairs = [
            (sum(c.macs for c in after), sum(c.macs for c in before)),
            (sum(c.bytes for c in after), sum(c.bytes for c in before)),
            (sum(c.bytes > 0 for c in after), sum(c.bytes > 0 for c in before)),
        ]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    def replaced(self, entry: Value, exit_: Value) -> list[str]:
        """Return the nodes that emitting a region makes dead: not what outsiders read, nor what feeds it."""
        values = self.affine.between(entry, exit_)
        inside = set(values)
        live: set[Value] = set()
        for value in reversed(values[:-1]):
            made = set(readers(self.graph, value))
            if not made <= inside or made & live:
                live.add(value)
        kept = {v.node for v in live}
        gone = [v for v in values if v.node not in kept]
        return list(dict.fromkeys(n for v in gone for n in (*self.affine.nodes[v].inside, v.node)))


def _axes(rank: int) -> tuple[int, ...]:
    if rank < 2:
        raise Refusal("a value without a channel axis", quiet=True)
    return (1,) if rank == 2 else ((rank - 1, 1) if rank == 3 else (1, rank - 1))


def _finite(program: Program) -> bool:
    """Tell whether a program's weights are numbers; they are in float64, which real weights stay within."""
    operands = [o for step in program.steps for o in step.operands.values()]
    flat = [x for o in operands for x in (o if isinstance(o, tuple) else (o,))]
    return all(bool(torch.isfinite(x).all()) for x in flat if isinstance(x, torch.Tensor))
