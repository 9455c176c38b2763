r"""One expert a row fewer: the only change to a router that saves time on every row.

k becomes k - 1, and every shape behind it follows. The experts a row still runs through are those it ran
through before, less the last; gates that are renormalised add up to one again, others lose the last.

Shapes are followed by where k stands in them. Reshapes may merge k with its neighbours: an axis of size
a k b has k between a and b, and keeps it there as long as rows are counted in the same order. Everything
else is asked what it makes of the smaller operands, on the meta device. Where k would remain in a result
of the model, or an operation cannot do with less, nothing is offered. So it is where the rows are repeated
k times ahead of the look-up: that k does not come from the router.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from compiler.compress.decision import Offer, Setting
from compiler.compress.routers import Router, routers
from compiler.compress.sites import accepted, number
from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, TensorType, Value

METHOD = "top_k"
_SHAPES = {"aten.reshape.default": "shape", "aten.view.default": "shape", "aten.expand.default": "size"}


@dataclass(frozen=True)
class Place:
    """Where k stands in a value: in the axis `axis`, behind the factor `outer` of its size."""

    axis: int
    outer: int


@dataclass
class _Walk:
    """One walk behind a router; lives only inside `lowered`."""

    graph: Graph
    k: int
    types: dict[Value, TensorType] = field(default_factory=dict)
    places: dict[Value, Place] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)


class _CannotFollowError(Exception):
    """k cannot be followed further."""


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return the routers that choose two experts or more, with one fewer."""
    found = ((router, lowered(graph, router)) for router in routers(graph) if router.k > 1)
    return tuple(
        Offer(router.site, (f"k:{router.k - 1}",), router.members | {n.name for n in nodes})
        for router, nodes in found
        if nodes
    )


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph with one expert a row fewer at each chosen router."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    for site, option in chosen.items():
        (router,) = (r for r in routers(graph) if r.site == site)
        assert number(option) == router.k - 1
        editor = Editor(graph)
        for node in lowered(graph, router):
            editor.update(node)
        graph = editor.finish()
    return graph


def lowered(graph: Graph, router: Router) -> tuple[Node, ...]:
    """Return the nodes that change with k - 1 in the place of k; none where k cannot be followed."""
    walk = _Walk(graph, router.k)
    try:
        _start(walk, router)
        for node in graph.nodes():
            if any(value in walk.types for _, value in node.values()):
                _follow(walk, node)
    except _CannotFollowError:
        return ()
    return tuple(walk.nodes)


def _start(walk: _Walk, router: Router) -> None:
    operands = tuple((key, walk.k - 1 if key == "k" else o) for key, o in router.node.operands)
    types = tuple(TensorType((*t.shape[:-1], walk.k - 1), t.dtype) for t in router.node.types)
    walk.nodes.append(replace(router.node, operands=operands, types=types))
    for index, type_ in enumerate(types):
        walk.types[Value(router.node.name, index)] = type_
        walk.places[Value(router.node.name, index)] = Place(type_.rank - 1, 1)


def _follow(walk: _Walk, node: Node) -> None:
    """Give an operation behind the router its new types, and note where k stands in them."""
    if node.kind is not Kind.OP:
        raise _CannotFollowError
    changed = [value for _, value in node.values() if value in walk.types]
    key = _SHAPES.get(node.op)
    place = _carried(walk, node, walk.places[changed[0]]) if key else None
    operands = node.operands
    if key and place:
        shape = tuple(_less(walk, d) if i == place.axis else d for i, d in enumerate(node.operand(key)))
        operands = tuple((k, shape if k == key else o) for k, o in node.operands)
    new = replace(node, operands=operands)
    new = replace(new, types=_meta_types(walk, new))
    outer = walk.places[changed[0]].outer
    for index, (old, now) in enumerate(zip(node.types, new.types, strict=True)):
        moved = [axis for axis, (a, b) in enumerate(zip(old.shape, now.shape, strict=True)) if a != b]
        if any(now.shape[axis] != _less(walk, old.shape[axis]) for axis in moved) or len(moved) > 1:
            raise _CannotFollowError
        if moved:
            walk.types[Value(node.name, index)] = now
            walk.places[Value(node.name, index)] = place or Place(moved[0], outer)
    if new != node:
        walk.nodes.append(new)


def _carried(walk: _Walk, node: Node, place: Place) -> Place | None:
    """Return where a reshape or an expand puts k."""
    source = walk.graph.type_of(node.operand("self")).shape
    target = node.type.shape
    if not all(isinstance(d, int) for d in (*source, *target)):
        raise _CannotFollowError
    if node.op == "aten.expand.default":
        return Place(place.axis + len(target) - len(source), place.outer)
    ahead = math.prod(int(str(d)) for d in source[: place.axis]) * place.outer
    before = 1
    for axis, size in enumerate(int(str(d)) for d in target):
        outer, rest = divmod(ahead, before)
        if not rest and size % (outer * walk.k) == 0:
            return Place(axis, outer)
        before *= size
    raise _CannotFollowError


def _less(walk: _Walk, size: Operand) -> Operand:
    return size // walk.k * (walk.k - 1) if isinstance(size, int) and size % walk.k == 0 else size


def _meta_types(walk: _Walk, node: Node) -> tuple[TensorType, ...]:
    """Return what an operation makes of its operands' new types."""
    values: dict[Value, Any] = {}
    for _, value in node.values():
        type_ = walk.types.get(value, walk.graph.type_of(value))
        shape = [d for d in type_.shape if isinstance(d, int)]
        if len(shape) < type_.rank:
            raise _CannotFollowError
        values[value] = torch.empty(shape, dtype=type_.dtype, device="meta")
    try:
        run_node(node, values, {})
    except (RuntimeError, IndexError, ValueError) as error:
        raise _CannotFollowError from error
    made = [values.get(Value(node.name, i)) for i in range(len(node.types))]
    if any(m is None for m in made) or Value(node.name, len(made)) in values:
        raise _CannotFollowError
    return tuple(TensorType(tuple(m.shape), m.dtype) for m in made if m is not None)
