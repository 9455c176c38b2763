"""Residual streams: a value's channels through sums and movements, from every writer to every reader.

A change of all writers that all readers undo, or do not see, changes nothing outside: a scale for each
channel (`gauge`), or the mean over the channels taken off (`centre`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.merge.affine_ops import affine
from compiler.merge.attempt import Refusal
from compiler.merge.form import entry_form, settled

LINEAR = ("aten.linear.default", "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")

# Whether a node writes, or by which operand path it reads, a value whose channels lie on the axis.
Writes = Callable[[Node, int], bool]
Reads = Callable[[Node, str, int], bool]


@dataclass
class Stream:
    """The values of a stream with the axis of their channels, their writers and readers by name.

    `refusal` says what else touches it, quietly where it has no writer: then it is no stream.
    """

    axes: dict[Value, int] = field(default_factory=dict)
    writers: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, Node] = field(default_factory=dict)
    refusal: Refusal | None = None


def stream_of(graph: Graph, start: Value, axis: int, writes: Writes, reads: Reads) -> Stream:
    """Return everything that writes and reads a stream."""
    stream = Stream()
    work = [(start, axis)]
    refusals: list[Refusal] = []
    while work:
        value, at = work.pop()
        if stream.axes.setdefault(value, at) != at:
            refusals.append(Refusal("the stream keeps its channels in two places", value.node))
            continue
        for step in (_sources(graph, value, at, stream, writes), _targets(graph, value, at, stream, reads)):
            try:
                work += [found for found in step if found[0] not in stream.axes]
            except Refusal as refusal:
                refusals.append(refusal)
    if refusals:
        stream.refusal = Refusal(refusals[0].reason, refusals[0].node, quiet=not stream.writers)
    return stream


def shared_weight(graph: Graph, nodes: Iterable[Node]) -> Refusal | None:
    """Return the refusal of a weight that is not constant, or is not one node's alone."""
    for node in nodes:
        named = ("self", "weight", "bias") if node.op == "aten.expand.default" else ("weight", "bias")
        for value in (node.value,) if node.kind is Kind.CONSTANT else map(node.operand, named):
            if value is not None and (graph.constant(value) is None or len(graph.uses(value)) != 1):
                return Refusal("a weight on the stream is shared, and would be stored twice", node.name)
    return None


def channel_axis(node: Node) -> int:
    """Return the axis a linear operation writes and reads its channels on."""
    return node.type.rank - 1 if node.op == "aten.linear.default" else 1


def _sources(
    graph: Graph, value: Value, axis: int, stream: Stream, writes: Writes
) -> Iterator[tuple[Value, int]]:
    node = graph.producer(value)
    if writes(node, axis):
        stream.writers[node.name] = node
    elif _is_sum(graph, node):
        for part in (node.operand("self"), node.operand("other")):  # a constant may broadcast
            yield part, axis - node.type.rank + graph.type_of(part).rank
    elif _joins(node, axis):
        yield from ((part, axis) for part in node.operand("tensors"))
    else:
        source = _moved(graph, value, axis)
        if source is None:
            raise Refusal("the stream is written by an operation that is not linear", node.name)
        yield source


def _targets(
    graph: Graph, value: Value, axis: int, stream: Stream, reads: Reads
) -> Iterator[tuple[Value, int]]:
    for node, path in graph.uses(value):
        if reads(node, path, axis):
            stream.readers[node.name] = node
        elif _is_sum(graph, node) or _joins(node, axis):
            yield node.value, axis
        else:
            made = _moved_on(graph, value, axis, node)
            if made is None:
                raise Refusal("the stream is read by an operation that is not linear", node.name)
            yield made


def _is_sum(graph: Graph, node: Node) -> bool:
    both = (node.operand("self"), node.operand("other"))
    plain = node.op == "aten.add.Tensor" and all(isinstance(v, Value) for v in both)
    plain = plain and node.operand("alpha") == 1
    return plain and all(graph.type_of(v) == node.type or graph.constant(v) is not None for v in both)


def _joins(node: Node, axis: int) -> bool:
    """Tell whether values are put side by side along another axis than their channels."""
    return node.op == "aten.cat.default" and node.operand("dim") % node.type.rank != axis


def _moved(graph: Graph, value: Value, axis: int) -> tuple[Value, int] | None:
    """Return the value behind a movement and its channel axis, None where there is none."""
    found = affine(graph, value)
    if found is None or not found.relabels:
        return None
    source = found.terms[0]
    for candidate in range(1, graph.type_of(source).rank):
        made = _moved_on(graph, source, candidate, graph.producer(value))
        if made == (value, axis):
            return source, candidate
    return None


def _moved_on(graph: Graph, value: Value, axis: int, node: Node) -> tuple[Value, int] | None:
    """Return what a movement makes of a value with its channels on `axis`, and where they are then."""
    found = affine(graph, node.value) if node.kind is Kind.OP else None
    if found is None or not found.relabels:
        return None
    try:
        form = settled(found.apply([entry_form(graph, value, axis, False)]))
    except Refusal:
        return None
    whole = form.arrangement is None and form.taps.channels_out == form.shape[form.axis]
    return (node.value, form.axis) if whole and form.taps.diagonal else None
