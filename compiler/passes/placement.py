"""Where each weight-only cone is computed: when the model is built, loaded, or called.

A cone computed at build time starts at once and stands as a plain weight, which the merge engine can
fold further. A cone kept as a *generator* keeps the file small: Kronecker sums, separable and low-rank
kernels, kernels over positions. A runtime that folds constants when it loads a program runs the
generator once; one that does not would run it at every call, so for that one everything is built. So is
a cone whose result does not stand in the program as it is, because a merge made it over.

The file holds, for a cone that is loaded, the constants that nothing else keeps there: with r readers
among the loaded cones, a constant counts 1/r for each, and nothing where another part of the graph
stores it anyway. A cone is loaded when its result is at least `RATIO` times its generator and at least
`LEAST_SAVED_BYTES` larger. Below a ratio of 3 most of the bytes stay whichever way is taken, while the
start-up cost is the same; below 1 MiB a file gains nothing one would notice.

A cone that only moves the elements of a weight which something else reads is left where it is: its
fold would store a tied weight twice (`merges.md` 1.13).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from compiler.ir.graph import Graph, Kind, Node
from compiler.passes.share import readers
from compiler.passes.weight_only import MOVEMENTS, cone, contents, weight_only

RATIO = 3.0
LEAST_SAVED_BYTES = 1 << 20
LEAST_UNSHARED_BYTES = 1 << 16  # a smaller copy costs less than an operation at every call


class Place(StrEnum):
    """When a weight-only cone is computed."""

    BUILD = "build"  # once, here; its result is stored
    LOAD = "load"  # once, by the runtime when it loads the program; its generator is stored
    CALL = "call"  # at every call; its result would be a second copy of a tied weight


@dataclass(frozen=True)
class Placement:
    """Where the cone under operation `node` is computed, and why.

    `generator_bytes` is what keeping the cone would store, `folded_bytes` what its result does.
    """

    node: str
    origin: str
    place: Place
    generator_bytes: float
    folded_bytes: int
    reason: str


@dataclass(frozen=True)
class Threshold:
    """How much smaller than its result a generator must be to be kept: a factor, and bytes."""

    ratio: float = RATIO
    least_saved_bytes: int = LEAST_SAVED_BYTES

    def accepts(self, generator_bytes: float, folded_bytes: int) -> bool:
        """Tell whether keeping the generator is worth it."""
        saved = folded_bytes - generator_bytes
        return folded_bytes >= self.ratio * generator_bytes and saved >= self.least_saved_bytes


def placements(
    graph: Graph, standing: Collection[str] | None = None, threshold: Threshold = Threshold()
) -> tuple[Placement, ...]:
    """Return the placement of each weight-only cone that the rest of the graph reads, in order.

    `standing` names the cones whose results are weights of the program, for a runtime that computes
    weight-only operations once, when it loads one; None for a runtime that does not.
    """
    roots, kept = _roots(graph)
    loaded = set() if standing is None else _loaded(graph, roots, threshold, set(standing))
    alone = generator_bytes(graph, {n.name for n in roots}, {n.name for n in roots})
    sizes = alone | generator_bytes(graph, set(standing or ()), loaded)
    result = {n.name: _placement(graph, n, standing, n.name in loaded, sizes[n.name]) for n in roots}
    for node, reason in kept:
        result[node.name] = Placement(node.name, node.origin, Place.CALL, 0.0, folded_bytes(node), reason)
    return tuple(result[n.name] for n in graph.nodes() if n.name in result)


def built(graph: Graph) -> list[Node]:
    """Return the operations whose results are computed now and stored."""
    return _roots(graph)[0]


def loadable(graph: Graph, threshold: Threshold = Threshold()) -> list[Node]:
    """Return the cones' last operations that may be loaded, and those of the cones inside them."""
    roots, _ = _roots(graph)
    inside = cone(graph, _loaded(graph, roots, threshold, {n.name for n in roots}))
    return [n for n in roots if n.name in inside]


def discretizes(graph: Graph, node: Node) -> bool:
    """Tell whether a node turns floating values into integers or booleans."""
    reads = any(graph.type_of(value).dtype.is_floating_point for value in contents(node))
    outputs = [type_.dtype for type_ in node.types]
    return node.kind is Kind.OP and reads and not all(d.is_floating_point or d.is_complex for d in outputs)


def folded_bytes(node: Node) -> int:
    """Return the bytes that the outputs of a node take."""
    return sum(type_.bytes() for type_ in node.types)


def generator_bytes(graph: Graph, standing: set[str], loaded: set[str]) -> dict[str, float]:
    """Return, for each loaded root, the bytes of the constants that are kept for its sake alone."""
    inside = cone(graph, {n.name for n in built(graph)})
    shared = {n for n in inside if any(user.name not in inside for user in graph.users(n))}
    leaves = {name: _leaves(graph, name, standing - loaded) - shared for name in loaded}
    counts = Counter(leaf for found in leaves.values() for leaf in found)
    return {
        name: sum(graph.node(leaf).type.bytes() / counts[leaf] for leaf in sorted(found))
        for name, found in leaves.items()
    }


def _leaves(graph: Graph, root: str, stored: set[str]) -> set[str]:
    """Return the constants a cone reads; what is built under it is stored anyway and costs nothing."""
    names = cone(graph, [root], stored - {root})
    return {name for name in names if graph.node(name).kind is Kind.CONSTANT}


def _roots(graph: Graph) -> tuple[list[Node], list[tuple[Node, str]]]:
    """Return the cones' last operations, and those that stay at the call with the reason."""
    names = weight_only(graph)
    roots = [n for n in graph.ops() if n.name in names and _read_outside(graph, n, names)]
    reasons = {n.name: _unshares(graph, n, names) for n in roots}
    kept = [(n, reason) for n in roots if (reason := reasons[n.name]) is not None]
    return [n for n in roots if reasons[n.name] is None], kept


def _read_outside(graph: Graph, node: Node, names: set[str]) -> bool:
    """Tell whether something that weights do not decide reads a node; expands are read through.

    An expand is never computed here: that would only store copies.
    """
    if node.op == "aten.expand.default":
        return False
    for reader in graph.users(node.name):
        outside = reader.name not in names or reader.op == "aten.expand.default"
        if outside and any(value.node == node.name for value in contents(reader)):
            return True
    return False


def _unshares(graph: Graph, node: Node, names: set[str]) -> str | None:
    """Say which tied weight the fold of a node would store a second time, None where it would not."""
    source = node
    while source.op in MOVEMENTS:
        source = graph.producer(source.operands[0][1])
    if source is node or source.kind is not Kind.CONSTANT or folded_bytes(node) < LEAST_UNSHARED_BYTES:
        return None
    others = readers(graph, source.name) - readers(graph, node.name) - names
    if not others:
        return None
    return f"folding would store {source.name} a second time: {min(others)} reads it as well"


def _loaded(graph: Graph, roots: list[Node], threshold: Threshold, standing: set[str]) -> set[str]:
    """Return the roots to load: start from all, and drop those that are not worth it until none is."""
    loaded = {n.name for n in roots if n.name in standing and _unloadable(graph, n) is None}
    while True:
        sizes = generator_bytes(graph, standing, loaded)
        dropped = {n for n in loaded if not threshold.accepts(sizes[n], folded_bytes(graph.node(n)))}
        if not dropped:
            return loaded
        loaded -= dropped  # fewer share their constants now


def _unloadable(graph: Graph, root: Node) -> str | None:
    """Say why a cone cannot be left to a runtime's own arithmetic, None where it can."""
    for name in sorted(cone(graph, [root.name])):
        node = graph.node(name)
        if any(type_.dtype.is_complex for type_ in node.types):
            return f"{name} is complex, which a runtime need not know"
        if discretizes(graph, node):
            return f"{name} turns floats into integers, where rounding decides"
        if unread := {v.node for _, v in node.values()} - {v.node for v in contents(node)}:
            return f"{name} takes its shape from {min(unread)}, which computes something else"
    return None


def _placement(
    graph: Graph, node: Node, standing: Collection[str] | None, loaded: bool, generator: float
) -> Placement:
    if loaded:
        reason = "the generator is much smaller, and the runtime runs it once, at load"
    elif standing is None:
        reason = "built once: a runtime without load-time initialisers would run the cone at every call"
    elif found := _unloadable(graph, node):
        reason = found
    elif node.name in standing or not Threshold().accepts(generator, folded_bytes(node)):
        reason = "the generator is not much smaller than its result"
    else:
        reason = "its result is no weight of the program: a merge made it over"
    place = Place.LOAD if loaded else Place.BUILD
    return Placement(node.name, node.origin, place, generator, folded_bytes(node), reason)
