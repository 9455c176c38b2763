"""Ranking only: what an arg-max cannot see is dropped, where the user asks for no more than that.

Walking back from an output, each row along its last axis may be replaced by anything that ranks the
same: softmax and the other increasing functions, a positive factor and a shift that a whole row shares.
Behind a product without bias only a factor common to the row may still be dropped: for `s > 0`,
`W(s x) = s (W x)`. That is where the L2 normalisation of a dual encoder's image side stands, and without
it the projection folds into the classifier (`merges.md` 2.24).

A division by what is zero is no ranking in the original either, so a divisor need only be shown not to
be negative; a factor must be positive. Every value on the way has one reader: another would see the
change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Operand, Value
from compiler.passes.dead_code import dead_code
from compiler.passes.signs import nonnegative, positive

_INCREASING = {"sigmoid", "tanh", "exp", "log", "log_sigmoid"}
_SOFTMAX = {"softmax", "log_softmax", "_softmax", "_log_softmax"}


@dataclass(frozen=True)
class Ranking:
    """One operation before output `output` that a ranking does not need: dropped, or why it was not.

    `output` counts the results that are tensors. `node` is the operation, `blame` the one that stands in
    the way where `dropped` is false.
    """

    output: int
    node: str
    op: str
    origin: str
    dropped: bool
    reason: str
    blame: str = ""


@dataclass(frozen=True)
class _Place:
    """A value on the way back, the axis that is ranked, and what may still be done to it.

    `scale_only` says that only a positive factor of the row may go. `blocked` is the reason why nothing
    may, with the node to blame.
    """

    value: Value
    axis: int
    scale_only: bool = False
    blocked: tuple[str, str] | None = None


@dataclass(frozen=True)
class _Step:
    """What one operation lets through: go on at `source`; `reason` where it can go, `refusal` where not."""

    source: Value
    axis: int
    reason: str = ""
    refusal: str = ""
    scale_only: bool = False
    bias: str = ""


def keep_rankings(graph: Graph) -> tuple[Graph, tuple[Ranking, ...]]:
    """Return the graph with outputs that rank as before, and what was dropped or refused.

    The result's outputs have the types they had; their values differ, their order along the last axis
    does not.
    """
    editor = Editor(graph)
    rankings: list[Ranking] = []
    for index, (_, value) in enumerate(graph.output.values()):
        rankings += _output(editor, index, value)
    return dead_code(editor.finish()), tuple(rankings)


def _output(editor: Editor, index: int, value: Value) -> Iterator[Ranking]:
    graph = editor.graph
    node, type_ = graph.producer(value), graph.type_of(value)
    if node.op == "aten.argmax.default" and node.operand("dim") is not None:
        source: Value = node.operand("self")
        yield from _walk(editor, index, _Place(source, node.operand("dim") % graph.type_of(source).rank))
        return
    if not type_.dtype.is_floating_point:
        return
    refusal = _unrankable(graph, value)
    if refusal:
        yield Ranking(index, node.name, node.op, node.origin, False, refusal, node.name)
        return
    yield from _walk(editor, index, _Place(value, type_.rank - 1))


def _unrankable(graph: Graph, value: Value) -> str | None:
    shape = graph.type_of(value).shape
    if len(shape) < 2:
        return f"output {value.node} has rank {len(shape)}; rows along a last axis are ranked"
    if shape[-1] == 1:
        return f"output {value.node} has a single score a row, which ranks nothing"
    if len(graph.uses(value)) > 1:
        return f"output {value.node} is read by something else as well"
    return None


def _walk(editor: Editor, index: int, place: _Place) -> Iterator[Ranking]:
    while True:
        graph = editor.graph
        node = graph.producer(place.value)
        step = _step(graph, node, place)
        if step is None or place.value.index or (step.reason and graph.type_of(step.source) != node.type):
            return
        place = _watched(graph, node, place)
        if step.refusal:
            yield Ranking(index, node.name, node.op, node.origin, False, step.refusal, node.name)
            return
        if step.reason and place.blocked:
            yield Ranking(index, node.name, node.op, node.origin, False, *place.blocked)
        elif step.reason:
            editor.replace_uses(node.value, step.source)
            editor.remove_unread([node.name])
            yield Ranking(index, node.name, node.op, node.origin, True, step.reason)
        blocked = place.blocked or ((step.bias, node.name) if step.bias else None)
        place = _Place(step.source, step.axis, place.scale_only or step.scale_only, blocked)


def _watched(graph: Graph, node: Node, place: _Place) -> _Place:
    """Block the way where something else reads the value: it would see what is dropped before it."""
    readers = sorted(reader.name for reader, _ in graph.uses(place.value))
    if place.blocked or len(readers) < 2:
        return place
    reason = f"{node.name} is read by {' and '.join(readers[:3])}, and not for its ranking alone"
    return dataclasses.replace(place, blocked=(reason, node.name))


def _step(graph: Graph, node: Node, place: _Place) -> _Step | None:
    """Return how a node lets a row's factor or shift through, None where the walk ends."""
    name = node.op.split(".")[1] if node.op else ""
    axis = place.axis
    if name in _SOFTMAX and not place.scale_only:
        along = node.operand("dim") % node.type.rank == axis
        why = "increasing along the row" if along else ""
        return _Step(node.operand("self"), axis, why, "" if along else f"{name} is along another axis")
    if name in _INCREASING and not place.scale_only:
        return _Step(node.operand("self"), axis, f"{name} is increasing")
    if name in ("mul", "div"):
        return _scaled(graph, node, axis)
    if name in ("add", "sub") and not place.scale_only:
        return _shifted(graph, node, axis)
    if name == "layer_norm":
        return _normalised(node, place)
    return _through(graph, node, name, axis)


def _scaled(graph: Graph, node: Node, axis: int) -> _Step | None:
    """A row's own factor or divisor goes when its sign is known; any other constant is passed."""
    divides = ".div." in node.op
    if node.operand("rounding_mode") is not None:
        return None
    found = _shared(graph, node, axis, swap=not divides)
    if found is None:
        return _weighted(graph, node, axis, swap=not divides)
    source, factor = found
    known = nonnegative(graph, factor) if divides else positive(graph, factor)
    name = factor.node if isinstance(factor, Value) else repr(factor)
    if known:
        return _Step(source, axis, f"{'divides' if divides else 'scales'} each row by {name} alone")
    needed = "not negative" if divides else "positive"
    return _Step(source, axis, refusal=f"{name} cannot be shown to be {needed}: the order may turn")


def _weighted(graph: Graph, node: Node, axis: int, swap: bool) -> _Step | None:
    """Pass a factor that differs along the row and does not depend on the input."""
    left, right = node.operand("self"), node.operand("other")
    for source, other in ((left, right), (right, left)) if swap else ((left, right),):
        if graph.constant(other) is not None and graph.type_of(source) == node.type:
            return _Step(source, axis, scale_only=True)
    return None


def _shifted(graph: Graph, node: Node, axis: int) -> _Step | None:
    found = _shared(graph, node, axis, swap=".add." in node.op and node.operand("alpha", 1) == 1)
    if found is None:
        return None
    source, shift = found
    name = shift.node if isinstance(shift, Value) else repr(shift)
    return _Step(source, axis, f"shifts each row by {name} alone")


def _shared(graph: Graph, node: Node, axis: int, swap: bool) -> tuple[Value, Operand] | None:
    """Return (what is ranked, what is one value a row) of a node with two operands."""
    left, right = node.operand("self"), node.operand("other")
    for source, other in ((left, right), (right, left)) if swap else ((left, right),):
        same = isinstance(source, Value) and graph.type_of(source) == node.type
        if same and _constant_along(graph, other, node.type.rank - axis):
            return source, other
    return None


def _constant_along(graph: Graph, operand: Operand, from_end: int) -> bool:
    """Tell whether an operand is the same all along an axis, counted from the last as 1."""
    if not isinstance(operand, Value):
        return True
    shape = graph.type_of(operand).shape
    if len(shape) < from_end or shape[-from_end] == 1:
        return True
    tensor = graph.constant(operand)
    if tensor is not None:
        return bool((tensor == tensor.narrow(tensor.dim() - from_end, 0, 1)).all())
    node = graph.producer(operand)
    return node.op == "aten.expand.default" and _constant_along(graph, node.operand("self"), from_end)


def _normalised(node: Node, place: _Place) -> _Step | None:
    """A layer norm over the row alone, without weight and bias, is a positive factor and a shift."""
    alone = len(node.operand("normalized_shape")) == 1 and place.axis == node.type.rank - 1
    plain = node.operand("weight") is None and node.operand("bias") is None
    if place.scale_only or not (alone and plain):
        return None
    return _Step(node.operand("input"), place.axis, "standardises each row")


def _through(graph: Graph, node: Node, name: str, axis: int) -> _Step | None:
    """Pass what leaves a row's factor a row's factor: products, ReLU, and movements of whole rows."""
    if name == "permute":
        return _Step(node.operand("self"), node.operand("dims")[axis] % node.type.rank)
    if name == "reshape":
        source: Value = node.operand("self")
        shape = graph.type_of(source).shape
        rows = axis == node.type.rank - 1 and len(shape) > 1 and shape[-1] == node.type.shape[-1]
        return _Step(source, len(shape) - 1) if rows else None
    if name == "relu":
        return _Step(node.operand("self"), axis, scale_only=True)
    if name == "linear" and axis == node.type.rank - 1:
        biased = node.operand("bias") is not None
        bias = "its bias would have to be scaled by the same factor" if biased else ""
        return _Step(node.operand("input"), axis, scale_only=True, bias=bias)
    if name == "addmm" and axis == 1:
        bias = "its bias would have to be scaled by the same factor"
        return _Step(node.operand("mat1"), axis, scale_only=True, bias=bias)
    if name in ("matmul", "mm", "bmm"):
        return _product(graph, node, axis)
    return None


def _product(graph: Graph, node: Node, axis: int) -> _Step | None:
    """Follow the operand that is contracted with the ranked axis' weights: the left one, or the right."""
    left, right = node.operand("self"), node.operand("other", node.operand("mat2"))
    ranks = graph.type_of(left).rank, graph.type_of(right).rank
    if min(ranks) < 2:
        return None
    if axis == node.type.rank - 1:
        return _Step(left, ranks[0] - 1, scale_only=True)
    return _Step(right, ranks[1] - 2, scale_only=True) if axis == node.type.rank - 2 else None
