r"""Groups of channels that can only be cut together, found on the graph.

Each position along each dimension that a weight makes or sums over is an atom. A walk in topological
order (`compiler.compress.channel_rules`, `channel_moves`) writes down which atoms go together: what is
added, what a depthwise convolution or a norm hands on, a whole head. The rest is two partitions:

    unit     a connected component of atoms: what is kept or cut as one
    group    the units that one weight makes, and those of weights they share a unit with: one decision

Residual streams, concatenations with their offsets, squeeze-and-excitation and flattened maps need no
rule of their own. Where ties leave atoms that differ along two dimensions of one value (a channel
shuffle), those along the shorter are tied, so that what is left is again a block. The inputs and results
of the model stay; a group that reaches them, or an operation that is not followed, is refused with the
reason and the node. Linear in the channels of the graph. In the spirit of DepGraph (Fang et al., CVPR 2023,
arXiv 2301.12900), on the IR.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from compiler.compress.channel_axes import Atoms, Axis, varying
from compiler.compress.channel_moves import MOVES, elementwise, pointwise, unknown
from compiler.compress.channel_rules import RULES
from compiler.compress.channel_walk import Fixed, Reader, Walk, short
from compiler.ir.graph import Graph, Kind, Node, Value

_FEATURE = 2**61 - 1


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are decided on together, or the `reason` why they are refused, with the `node` to blame.

    `units` are in order of their atoms; `kinds` numbers those that lie in the same places of the same
    weights; `width` is the least number of channels that a unit is in any weight. `sources` make the
    channels, `readers` sum over them with a stored weight, and `nodes` are all operations that touch them.
    """

    site: str
    units: Atoms
    kinds: Atoms
    width: int
    sources: tuple[str, ...]
    readers: tuple[Reader, ...]
    nodes: frozenset[str]
    reason: str = ""
    node: str = ""


@dataclass(frozen=True, eq=False)
class Channels:
    """All groups of a graph, and the axes of each value, whose atoms are units now."""

    groups: tuple[Group, ...]
    axes: Mapping[Value, tuple[Axis, ...]]
    count: int

    def offered(self) -> tuple[Group, ...]:
        """Return the groups that can be cut."""
        return tuple(g for g in self.groups if not g.reason)


def find_channels(graph: Graph) -> Channels:
    """Return the coupled groups of a graph, in topological order."""
    walk = _walked(graph)
    units = _units(walk)
    axes = {
        value: tuple(replace(axis, atoms=units[axis.atoms]) for axis in known)
        for value, known in walk.axes.items()
    }
    return Channels(tuple(_groups(graph, walk, units, axes)), axes, int(units.max(initial=-1)) + 1)


def _walked(graph: Graph) -> Walk:
    walk = Walk(graph)
    for node in graph.nodes():
        if node.kind is Kind.OP:
            rule = RULES.get(node.op) or MOVES.get(node.op)
            (rule or (elementwise if pointwise(node.op) else unknown))(walk, node)
        elif node.kind in (Kind.WRITE, Kind.OUTPUT):
            _stays(walk, node)
    for value in [v for v in walk.axes if graph.node(v.node).kind is Kind.CONSTANT]:
        for reader in graph.users(value.node):
            for axis in walk.of(value):
                if (value.node, reader.name, axis.dims) not in walk.understood:
                    walk.fix(axis, f"its weight is read by {short(reader)} too", reader)
    return walk


def _stays(walk: Walk, node: Node) -> None:
    what = "a result of the model" if node.kind is Kind.OUTPUT else "stored in a state"
    for _, value in node.values():
        for axis in walk.of(value):
            walk.fix(axis, f"it is {what}", walk.graph.node(value.node))


def _units(walk: Walk) -> Atoms:
    """Return the unit of each atom; what is repeated beside units cut along other dimensions is fixed."""
    joint = [a.atoms for known in walk.axes.values() for a in known if len(a.dims) > 1]
    units, partial = _components(walk.count, walk.ties), list(walk.partial)
    while True:
        further = [tie for atoms in joint for tie in _blocks(units[atoms], atoms)]
        if not further:
            reached = [p for p in partial if _reached(units[p.atoms], p.other)]
            partial = [p for p in partial if not _reached(units[p.atoms], p.other)]
            further = [(np.broadcast_to(p.other, p.atoms.shape).ravel(), p.atoms.ravel()) for p in reached]
        if not further:
            break
        walk.ties.extend(further)
        units = _components(walk.count, walk.ties)
    walk.fixed += [
        Fixed(p.other.ravel(), "it is repeated for channels cut without it", p.node) for p in partial
    ]
    return units


def _reached(units: Atoms, other: Atoms) -> bool:
    """Tell whether units differ along a dimension that what meets them covers."""
    return any(other.shape[i] > 1 for i in varying(units))


def _blocks(units: Atoms, atoms: Atoms) -> Iterator[tuple[Atoms, Atoms]]:
    """Yield the ties that make units differ along the longest dimension alone."""
    along = varying(units)
    for place in sorted(along, key=lambda i: units.shape[i])[:-1]:
        first = np.broadcast_to(np.take(atoms, [0], axis=place), atoms.shape)
        yield first.ravel(), atoms.ravel()


def _components(count: int, ties: Sequence[tuple[Atoms, Atoms]]) -> Atoms:
    """Number the connected components in order of their first members."""
    if not count:
        return np.zeros(0, np.int64)
    one, other = (np.concatenate([*(t[i] for t in ties), np.zeros(1, np.int64)]) for i in (0, 1))
    matrix = coo_matrix((np.ones(len(one), np.int8), (one, other)), (count, count))
    labels = connected_components(matrix, directed=False)[1].astype(np.int64)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    numbered: Atoms = order[inverse].astype(np.int64)
    return numbered


def _groups(
    graph: Graph, walk: Walk, units: Atoms, axes: Mapping[Value, tuple[Axis, ...]]
) -> Iterator[Group]:
    count = int(units.max(initial=-1)) + 1
    made = [(name, units[atoms]) for name, atoms in walk.sources]
    group_of = _components(count, [(np.broadcast_to(u[:1], u.shape), u) for _, u in made])
    sources, readers = defaultdict[int, list[str]](list), defaultdict[int, list[Reader]](list)
    for name, own in made:
        sources[int(group_of[own[0]])].append(name)
    for reader, atoms in walk.readers:
        for group in np.unique(group_of[units[atoms]]):
            readers[int(group)].append(reader)
    members = _members(group_of, sources)
    kinds = _kinds(graph, count, axes)
    width = _width(graph, walk, count, axes)
    touched = _touched(graph, group_of, axes)
    refused = _refused(walk, units, group_of)
    heads = {int(g) for atoms in walk.attention for g in np.unique(group_of[units[atoms]])}
    taken: set[str] = set()
    order = {n.name: i for i, n in enumerate(graph.nodes())}
    for group in sorted(sources, key=lambda g: min(order[name] for name in sources[g])):
        own, names = members[group], tuple(sorted(sources[group], key=lambda name: order[name]))
        site = _site(graph, names[0], "heads" if group in heads else "channels", taken)
        why = refused.get(group) or _nothing(own, names, readers[group])
        yield Group(
            site=site,
            units=own,
            kinds=np.unique(kinds[own], return_inverse=True)[1].astype(np.int64),
            width=int(width[own].min()),
            sources=names,
            readers=tuple(readers[group]),
            nodes=frozenset(touched[group]),
            reason=why[0] if why else "",
            node=why[1] if why else "",
        )


def _members(group_of: Atoms, wanted: Mapping[int, object]) -> dict[int, Atoms]:
    """Return the units of each group, in order."""
    order = np.argsort(group_of, kind="stable")
    starts = np.searchsorted(group_of[order], np.arange(int(group_of.max(initial=-1)) + 2))
    return {g: order[starts[g] : starts[g + 1]] for g in wanted}


def _stored(graph: Graph, axes: Mapping[Value, tuple[Axis, ...]]) -> Iterator[tuple[str, Axis]]:
    for value, known in axes.items():
        if graph.node(value.node).kind is Kind.CONSTANT:
            yield from ((value.node, axis) for axis in known)


def _kinds(graph: Graph, count: int, axes: Mapping[Value, tuple[Axis, ...]]) -> Atoms:
    """Return what tells apart units that lie in different weights: equal numbers mean equal places."""
    kinds = np.zeros(count, np.int64)
    stored = list(_stored(graph, axes))
    features = np.random.default_rng(0).integers(1, _FEATURE, len(stored))
    for feature, (_, axis) in zip(features, stored, strict=True):
        units, counts = np.unique(axis.atoms, return_counts=True)
        kinds[units] += feature * counts  # wraps around
    return kinds


def _width(graph: Graph, walk: Walk, count: int, axes: Mapping[Value, tuple[Axis, ...]]) -> Atoms:
    """Return the least number of channels that each unit is in any weight, those of all groups counted."""
    groups: dict[tuple[str, tuple[int, ...]], int] = {
        (graph.node(r.node).operand("weight").node, (r.dim,)): r.groups for r, _ in walk.readers
    }
    width = np.full(count, np.iinfo(np.int64).max)
    for name, axis in _stored(graph, axes):
        units, counts = np.unique(axis.atoms, return_counts=True)
        width[units] = np.minimum(width[units], counts * groups.get((name, axis.dims), 1))
    return width


def _touched(
    graph: Graph, group_of: Atoms, axes: Mapping[Value, tuple[Axis, ...]]
) -> defaultdict[int, set[str]]:
    """Return group -> the operations that make or read its channels."""
    touched = defaultdict[int, set[str]](set)
    for value, known in axes.items():
        around = {n.name for n, _ in graph.uses(value) if n.kind is Kind.OP}
        around |= {value.node} if graph.node(value.node).kind is Kind.OP else set()
        for axis in known:
            for group in np.unique(group_of[axis.atoms]):
                touched[int(group)] |= around
    return touched


def _refused(walk: Walk, units: Atoms, group_of: Atoms) -> dict[int, tuple[str, str]]:
    """Return group -> (reason, node) for the first thing that keeps it whole."""
    fixed = [
        *walk.fixed,
        *(Fixed(w.atoms.ravel(), w.reason, w.node) for w in walk.whole if w.along in varying(units[w.atoms])),
    ]
    found: dict[int, tuple[str, str]] = {}
    for why in fixed:
        for group in np.unique(group_of[units[why.atoms]]):
            found.setdefault(int(group), (why.reason, why.node))
    return found


def _nothing(units: Atoms, sources: Sequence[str], readers: Sequence[Reader]) -> tuple[str, str] | None:
    if len(units) < 2:
        return "all of it goes together, so that nothing would be left", sources[0]
    if not readers:
        return "no layer with weights sums over it", sources[0]
    return None


def _site(graph: Graph, source: str, kind: str, taken: set[str]) -> str:
    """Return a name made of the module that makes the channels, numbered where one makes several."""
    base = f"{kind}:{''.join((graph.node(source).origin or source).split())}"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}~{number}"
    taken.add(name)
    return name
