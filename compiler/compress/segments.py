"""Cuts a graph into the 6 to 12 stretches that a search decides on, along the model's own modules.

Operations are read in topological order. Neighbours from one module form an atom; modules are
opened, one level at a time, while there are too few atoms or one holds too much of the work. The
run of atoms is then cut into contiguous segments so that the heaviest is as light as possible
(the linear partition problem, by dynamic programming), with no more segments than buy balance.

A segment's site is made from module paths, never from weights or node names, so that a plan
survives a renaming: `segment:stem`, `segment:blocks.0..blocks.2`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.ir.graph import Graph, Kind, Node

Weigh = Callable[[Graph, Node], float]

_SHARE = 0.10  # a further segment must lighten the heaviest by this part


@dataclass(frozen=True)
class Segment:
    """A contiguous stretch of the graph.

    `boundary_bytes` maps the site of each later segment that reads from this one to the bytes that
    cross, each value counted once a reader segment.
    """

    site: str
    nodes: frozenset[str]
    boundary_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Atom:
    """A run of operations that is cut no further: one module at some depth."""

    path: str
    nodes: tuple[Node, ...]
    weight: float
    depth: int


def segments(graph: Graph, low: int = 6, high: int = 12, weigh: Weigh | None = None) -> tuple[Segment, ...]:
    """Return contiguous segments in topological order; every operation is in exactly one.

    Args:
        graph: a merged float graph.
        low: the least number of segments, where the model has as many modules.
        high: the greatest number of segments.
        weigh: the work of a node, in any unit; multiply-accumulates and elements by default.
    """
    if not 1 <= low <= high:
        raise ValueError(f"expected 1 <= low <= high, got {low} and {high}")
    atoms = _atoms(graph, low, high, weigh or work)
    if not atoms:
        return ()
    groups = _grouped(atoms, min(low, len(atoms)), min(high, len(atoms)))
    sites = _sites(groups)
    members = [frozenset(n.name for atom in group for n in atom.nodes) for group in groups]
    crossing = _crossing(graph, sites, members)
    return tuple(Segment(s, m, crossing[s]) for s, m in zip(sites, members, strict=True))


def carried(cut: Sequence[Segment], graph: Graph) -> tuple[Segment, ...]:
    """Return segments of a float graph with the operations of a graph made from it by structural methods.

    An operation the float graph does not have goes with the latest operation it reads from, or, where it
    reads inputs alone, with the first that reads it.
    """
    if not cut:
        return ()
    home = {name: i for i, segment in enumerate(cut) for name in segment.nodes}
    ops = graph.ops()
    place = {node.name: i for i, node in enumerate(ops)}
    for node in ops:
        if node.name not in home:
            read = [v.node for _, v in node.values() if v.node in place and v.node in home]
            if read:
                home[node.name] = home[max(read, key=place.__getitem__)]
    for node in reversed(ops):
        if node.name not in home:
            home[node.name] = next((home[u.name] for u in graph.users(node.name) if u.name in home), 0)
    members: list[set[str]] = [set() for _ in cut]
    for node in ops:
        members[home[node.name]].add(node.name)
    return tuple(dataclasses.replace(s, nodes=frozenset(m)) for s, m in zip(cut, members, strict=True))


def work(graph: Graph, node: Node) -> float:
    """Return the multiply-accumulates of a node with weights, else the elements it makes."""
    elements = sum(t.elements() for t in node.types)
    weight = node.operand("weight")
    tensor = graph.constant(weight) if weight is not None else None
    if tensor is None or tensor.ndim < 2:
        return float(elements)
    return float(elements) * tensor.numel() / tensor.shape[0]


def _atoms(graph: Graph, low: int, high: int, weigh: Weigh) -> list[Atom]:
    """Return atoms fine enough to balance the segments, as coarse as that allows."""
    paths = _paths(graph)
    weights = {n.name: weigh(graph, n) for n in graph.ops()}
    atoms = _runs(graph.ops(), paths, weights, 1)
    total = sum(weights.values())
    while True:
        coarse = [a for a in atoms if _opens(a, paths)]
        heavy = [a for a in coarse if a.weight > total / low]
        if not heavy and (len(atoms) >= high or not coarse):
            return atoms
        chosen = set(map(id, heavy or [max(coarse, key=lambda a: a.weight)]))
        opened = [_runs(a.nodes, paths, weights, a.depth + 1) if id(a) in chosen else [a] for a in atoms]
        atoms = list(itertools.chain.from_iterable(opened))


def _paths(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return operation -> module path.

    One without a module goes with what stands before it, an activation with what it activates: a
    cut between the two would keep a runtime from fusing them.
    """
    paths: dict[str, tuple[str, ...]] = {}
    last: tuple[str, ...] = ()
    ops = graph.ops()
    first = next((n.origin for n in ops if n.origin), "model")
    for node in ops:
        last = _activated(graph, node, paths) or _parts(node.origin) or last or _parts(first)
        paths[node.name] = last
    return paths


def _activated(graph: Graph, node: Node, paths: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the path of what an operation acts on element by element, None where it does not."""
    values = [value for _, value in node.values()]
    if len(values) != 1 or len(node.types) != 1 or graph.type_of(values[0]) != node.type:
        return None
    return paths.get(values[0].node) if len(graph.users(values[0].node)) == 1 else None


def _parts(origin: str) -> tuple[str, ...]:
    """Return the parts of a module path; a merged node's joined origin counts as its first module."""
    return tuple(p for p in re.split(r"[+,|\s]", origin, maxsplit=1)[0].split(".") if p)


def _runs(
    nodes: Sequence[Node], paths: Mapping[str, tuple[str, ...]], weights: Mapping[str, float], depth: int
) -> list[Atom]:
    """Return maximal runs of nodes whose module paths agree to a depth."""
    runs = itertools.groupby(nodes, key=lambda n: paths[n.name][:depth])
    return [
        Atom(".".join(path), members, sum(weights[n.name] for n in members), depth)
        for path, members in ((p, tuple(g)) for p, g in runs)
    ]


def _opens(atom: Atom, paths: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell whether some operation of an atom lies deeper than the atom's own path."""
    return any(len(paths[n.name]) > atom.depth for n in atom.nodes)


def _grouped(atoms: Sequence[Atom], low: int, high: int) -> list[list[Atom]]:
    """Return the balanced cut with the fewest segments that further ones do not clearly beat."""
    best = _balanced(atoms, low)
    for count in range(low + 1, high + 1):
        finer = _balanced(atoms, count)
        if _heaviest(finer) < (1 - _SHARE) * _heaviest(best):
            best = finer
    return best


def _heaviest(groups: Sequence[Sequence[Atom]]) -> float:
    return max(sum(a.weight for a in group) for group in groups)


def _balanced(atoms: Sequence[Atom], count: int) -> list[list[Atom]]:
    """Cut atoms into `count` contiguous groups of least heaviest weight, then of least squares."""
    prefix = [0.0, *itertools.accumulate(a.weight for a in atoms)]
    cost: list[dict[int, tuple[float, float]]] = [{0: (0.0, 0.0)}]
    cuts: list[dict[int, int]] = [{}]
    for k in range(1, count + 1):
        row, cut = {}, {}
        for end in range(k, len(atoms) + 1):
            before = ((start, cost[k - 1].get(start)) for start in range(k - 1, end))
            options = [_extend(c, prefix[end] - prefix[start], start) for start, c in before]
            heaviest, squares, start = min(options)
            row[end], cut[end] = (heaviest, squares), start
        cost.append(row)
        cuts.append(cut)
    groups: list[list[Atom]] = []
    end = len(atoms)
    for k in range(count, 0, -1):
        groups.insert(0, list(atoms[cuts[k][end] : end]))
        end = cuts[k][end]
    return groups


def _extend(before: tuple[float, float] | None, weight: float, start: int) -> tuple[float, float, int]:
    if before is None:
        return (math.inf, math.inf, start)
    return (max(before[0], weight), before[1] + weight * weight, start)


def _sites(groups: Sequence[Sequence[Atom]]) -> list[str]:
    """Return a distinct site for each group, named by its first and last module."""
    sites: list[str] = []
    seen: dict[str, int] = {}
    for group in groups:
        first, last = group[0].path, group[-1].path
        site = f"segment:{first}" if first == last else f"segment:{first}..{last}"
        seen[site] = seen.get(site, 0) + 1
        sites.append(site if seen[site] == 1 else f"{site}#{seen[site]}")
    return sites


def _crossing(
    graph: Graph, sites: Sequence[str], members: Sequence[frozenset[str]]
) -> dict[str, dict[str, int]]:
    """Return site -> later site -> bytes of the values that cross."""
    home = {name: site for site, names in zip(sites, members, strict=True) for name in names}
    crossing: dict[str, dict[str, int]] = {site: {} for site in sites}
    crossed = {
        (value, home[node.name])
        for node in graph.ops()
        for _, value in node.values()
        if graph.producer(value).kind is Kind.OP and home[value.node] != home[node.name]
    }
    for value, reader in crossed:
        row = crossing[home[value.node]]
        row[reader] = row.get(reader, 0) + graph.type_of(value).bytes()
    return crossing
