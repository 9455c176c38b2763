"""What is known of channels while a graph is walked: axes, ties between atoms, and what must stay.

The walk only writes down facts. Ties are pairs of atoms that go together; what is `fixed` may not be
cut, with the reason and the node to blame; `whole` are dimensions that may not be cut, whatever the ties
make of their atoms. What is `partial` covers some dimensions of what it meets, as a table of angles that all
heads read does, and is tied only where these are cut. `compiler.compress.channel_groups` solves them at the
end, all at once, so that a walk stays linear in the channels seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from compiler.compress.channel_axes import Atoms, Axis
from compiler.ir.graph import Graph, Kind, Node, Operand, Value


@dataclass(frozen=True)
class Reader:
    """An operation whose stored weight sums over channels: dimension `dim` of its weight, in `groups`."""

    node: str
    dim: int
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Fixed:
    """Atoms that may not be cut: why, and the node to blame."""

    atoms: Atoms
    reason: str
    node: str


@dataclass(frozen=True, eq=False)
class Whole:
    """An array dimension along which atoms may not differ in what becomes of them."""

    atoms: Atoms
    along: int
    reason: str
    node: str


@dataclass(frozen=True, eq=False)
class Partial:
    """Atoms over several dimensions, and those of a value repeated along some of them that meets them."""

    atoms: Atoms
    other: Atoms
    node: str


@dataclass
class Walk:
    """The facts gathered so far; rules write them."""

    graph: Graph
    axes: dict[Value, tuple[Axis, ...]] = field(default_factory=dict)
    ties: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    whole: list[Whole] = field(default_factory=list)
    sources: list[tuple[str, Atoms]] = field(default_factory=list)
    readers: list[tuple[Reader, Atoms]] = field(default_factory=list)
    attention: list[Atoms] = field(default_factory=list)
    partial: list[Partial] = field(default_factory=list)
    understood: set[tuple[str, str, tuple[int, ...]]] = field(default_factory=set)
    count: int = 0

    def fresh(self, *shape: int) -> Atoms:
        """Return atoms that nothing has yet."""
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64).reshape(shape)

    def tie(self, one: Atoms, other: Atoms) -> None:
        """Say that atoms of two arrays, broadcast against each other, go together position by position."""
        one, other = np.broadcast_arrays(one, other)
        self.ties.append((one.ravel(), other.ravel()))

    def fix(self, axis: Axis | None, reason: str, node: Node) -> None:
        """Say that an axis may not be cut."""
        if axis is not None:
            self.fixed.append(Fixed(axis.atoms.ravel(), reason, node.name))

    def constant(self, value: Operand) -> bool:
        """Tell whether an operand is a stored weight."""
        return isinstance(value, Value) and self.graph.node(value.node).kind is Kind.CONSTANT

    def of(self, value: Operand) -> tuple[Axis, ...]:
        """Return the axes of an operand."""
        return self.axes.get(value, ()) if isinstance(value, Value) else ()

    def at(self, value: Operand, dim: int, node: Node) -> Axis | None:
        """Return the axis of one dimension alone; one that covers others too is fixed."""
        for axis in self.of(value):
            if axis.dims == (dim,):
                return axis
            if dim in axis.dims:
                self.fix(axis, f"{short(node)} sums over a part of it", node)
        return None

    def stored(self, value: Operand, dims: Sequence[int], node: Node) -> Axis | None:
        """Return the axis of some dimensions of a weight, made where it has none; None for other values.

        Dimensions of size 1 have nothing to cut and are left out.
        """
        if not self.constant(value):
            return None
        shape = self.graph.type_of(value).shape
        wide = tuple(d for d in dims if shape[d] != 1)
        self.understood.add((value.node, node.name, wide))
        if not wide:
            return None
        known = [a for a in self.of(value) if set(a.dims) & set(wide)]
        exact = next((a for a in known if a.dims == wide), None)
        if exact is not None:
            return exact
        axis = Axis(wide, self.fresh(*(int(str(shape[d])) for d in wide)))
        for other in known:
            self.fix(other, "a weight is read in two ways", node)
            self.fix(axis, "a weight is read in two ways", node)
        self.axes[value] = (*self.of(value), axis)
        return axis

    def meet(
        self, values: Sequence[Value], dims: Sequence[int], axes: Sequence[Axis | None], node: Node
    ) -> Atoms:
        """Tie what several values have at the same dimensions of a result, and return the atoms there.

        `axes` are the values' own axes in the result's dimensions, of which `dims` are those any of them
        covers. A weight without one gets it; another value without one cannot be cut, so that all stay.
        """
        arrays = [axis.over(dims) for axis in axes if axis is not None]
        widest = max(arrays, key=lambda array: array.size)
        atoms = np.broadcast_to(widest, np.broadcast_shapes(*(a.shape for a in arrays)))
        for other in arrays:
            self._put_together(atoms, other, node)
        for value, axis in zip(values, axes, strict=True):
            if axis is None:
                self._join(value, dims, atoms, node)
            else:
                offset = node.type.rank - self.graph.type_of(value).rank
                self.understood.add((value.node, node.name, tuple(d - offset for d in axis.dims)))
        return atoms

    def _put_together(self, atoms: Atoms, other: Atoms, node: Node) -> None:
        """Tie atoms to those of a value that meets them; one that is repeated may not need to be tied."""
        if other.shape == atoms.shape:
            self.tie(atoms, other)
        else:
            self.partial.append(Partial(atoms, other, node.name))

    def _join(self, value: Value, dims: Sequence[int], atoms: Atoms, node: Node) -> None:
        """Give a weight the axis of the values it meets; where it is no weight, they stay as they are."""
        shape = self.graph.type_of(value).shape
        offset = node.type.rank - len(shape)
        own = [d - offset for d in dims if d >= offset and shape[d - offset] != 1]
        made = self.stored(value, own, node)
        if made is not None:
            self._put_together(atoms, made.moved([d + offset for d in made.dims]).over(dims), node)
        elif own and not self.constant(value):
            reason = f"{short(node)} puts it together with {value.node!r}, which cannot be cut"
            self.fixed.append(Fixed(atoms.ravel(), reason, node.name))


def short(node: Node) -> str:
    """Return an operation's plain name."""
    return node.op.split(".")[1] if node.op else node.kind.value
