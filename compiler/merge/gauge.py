r"""Gauge changes: scales moved to where another operation absorbs them (`merges.md` 1.9).

Through a homogeneous activation: `relu(S x) = S relu(x)` for `S > 0`, so a scale in front of one goes
behind it, into the weights that read it.

Along a residual stream: a final `a * h + b` on a stream goes away when every writer's rows are scaled
by `a`, every reader's columns by `1 / a`, and `b` is added to the last writer's bias. It needs all
`a` non-zero and nothing but linear operations on the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.merge.affine_ops import affine
from compiler.merge.attempt import Attempt, Outcome, Refusal
from compiler.merge.form import entry_form, settled

_HOMOGENEOUS = ("aten.relu.default", "aten.leaky_relu.default", "aten.max_pool2d.default", "aten.abs.default")
_LINEAR = ("aten.linear.default", "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")


def through_activations(graph: Graph) -> Graph:
    """Return the graph with positive scales behind the homogeneous operations that read them."""
    editor = Editor(graph)
    for original in graph.ops():
        node = editor.graph.node(original.name)
        source = _scaled_source(editor.graph, node) if node.op in _HOMOGENEOUS else None
        if source is None:
            continue
        inner = dict(node.operands) | {"self": source.operand("self")}
        bare = editor.ahead_of(node, node.op, inner)
        outer = dict(source.operands) | {"self": bare}
        value = editor.op(source.op, outer, node.types, origin=source.origin, before=node.name)
        editor.replace_uses(node.value, value)
        editor.remove_unread([node.name])
    return editor.finish()


def _scaled_source(graph: Graph, node: Node) -> Node | None:
    """Return the positive scale that a homogeneous operation alone reads, if its readers can absorb it."""
    source = graph.producer(node.operand("self"))
    scale = graph.constant(source.operand("other")) if source.op == "aten.mul.Tensor" else None
    if scale is None or scale.numel() not in (1, max(scale.shape, default=1)) or not bool((scale > 0).all()):
        return None
    absorbed = all(r.op in _LINEAR for r in graph.users(node.name))
    whole = graph.type_of(source.operand("self")) == source.type and len(graph.uses(source.value)) == 1
    return source if absorbed and whole else None


@dataclass
class Stream:
    """The values of a residual stream with the axis of their channels, their writers and readers."""

    axes: dict[Value, int] = field(default_factory=dict)
    writers: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """A final `scale * stream + shift`: its operations, in order."""

    value: Value
    nodes: tuple[Node, ...]
    axis: int
    scale: torch.Tensor
    shift: torch.Tensor | None


def along_streams(graph: Graph) -> tuple[Graph, list[Attempt]]:
    """Return the graph without the scales at the end of its residual streams, and the attempts."""
    attempts: list[Attempt] = []
    editor, order = Editor(graph), graph.ops()
    graph = editor.graph
    for node in order:
        if node.name not in graph:
            continue
        end = _end(graph, graph.node(node.name))
        if end is None:
            continue
        try:
            stream = _stream(graph, end)
            _rewrite(editor, end, stream)
        except Refusal as refusal:
            if not refusal.quiet:
                attempts.append(_attempt(end, Outcome.REFUSED, refusal.reason, refusal.node))
            continue
        reason = f"{len(stream.writers)} writers and {len(stream.readers)} readers of the stream absorb it"
        attempts.append(_attempt(end, Outcome.MERGED, reason, ""))
    return editor.finish(), attempts


def _end(graph: Graph, node: Node) -> End | None:
    """Return the scale, and the shift behind it, that a sum of the stream ends in."""
    source = node.operand("self")
    scale = graph.constant(node.operand("other")) if node.op == "aten.mul.Tensor" else None
    if scale is None or not isinstance(source, Value) or graph.producer(source).op != "aten.add.Tensor":
        return None
    wide = [
        a for a, size in enumerate((1,) * (node.type.rank - scale.dim()) + tuple(scale.shape)) if size != 1
    ]
    if len(wide) != 1 or graph.constant(graph.producer(source).operand("other")) is not None:
        return None
    nodes, shift = [node], None
    uses = graph.uses(node.value)
    after = uses[0][0] if len(uses) == 1 else None
    if after is not None and after.op == "aten.add.Tensor" and after.operand("alpha") == 1:
        added = graph.constant(after.operand("other"))
        if added is not None and added.numel() == scale.numel() and after.operand("self") == node.value:
            nodes, shift = [node, after], added.flatten().double()
    return End(source, tuple(nodes), wide[0], scale.flatten().double(), shift)


def _stream(graph: Graph, end: End) -> Stream:
    """Return everything that writes and reads the stream; raises Refusal naming what is not linear."""
    if bool((end.scale == 0).any()):
        raise Refusal("a channel is scaled by zero, which no writer's scale can undo", end.nodes[0].name)
    stream = Stream()
    work = [(end.value, end.axis)]
    while work:
        value, axis = work.pop()
        if stream.axes.setdefault(value, axis) != axis:
            raise Refusal("the stream keeps its channels in two places", value.node)
        for found in (*_sources(graph, value, axis, stream), *_targets(graph, value, axis, stream, end)):
            if found[0] not in stream.axes:
                work.append(found)
    return stream


def _sources(graph: Graph, value: Value, axis: int, stream: Stream) -> Iterator[tuple[Value, int]]:
    node = graph.producer(value)
    if _is_sum(graph, node):
        yield from ((node.operand(k), axis) for k in ("self", "other"))
    elif node.op in _LINEAR and _channel_axis(node) == axis:
        stream.writers[node.name] = node
    else:
        source = _moved(graph, value, axis)
        if source is None:
            raise Refusal("the stream is written by an operation that is not linear", node.name)
        yield source


def _targets(graph: Graph, value: Value, axis: int, stream: Stream, end: End) -> Iterator[tuple[Value, int]]:
    for node, path in graph.uses(value):
        if node.name == end.nodes[0].name and value == end.value:
            continue
        if _is_sum(graph, node):
            yield node.value, axis
        elif node.op in _LINEAR and path == "input" and _channel_axis(node) == axis and not _padded_up(node):
            stream.readers[node.name] = node
        else:
            made = _moved_on(graph, value, axis, node)
            if made is None:
                raise Refusal("the stream is read by an operation that is not linear", node.name)
            yield made


def _padded_up(node: Node) -> bool:
    return node.op != "aten.linear.default" and node.operand("groups") != 1


def _is_sum(graph: Graph, node: Node) -> bool:
    both = (node.operand("self"), node.operand("other"))
    plain = node.op == "aten.add.Tensor" and all(isinstance(v, Value) for v in both)
    return plain and all(graph.type_of(v) == node.type and graph.constant(v) is None for v in both)


def _channel_axis(node: Node) -> int:
    return node.type.rank - 1 if node.op == "aten.linear.default" else 1


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
    found = affine(graph, node.value)
    if found is None or not found.relabels:
        return None
    try:
        form = settled(found.apply([entry_form(graph, value, axis, False)]))
    except Refusal:
        return None
    whole = form.arrangement is None and form.taps.channels_out == form.shape[form.axis]
    return (node.value, form.axis) if whole and form.taps.diagonal else None


def _rewrite(editor: Editor, end: End, stream: Stream) -> None:
    """Scale writers and readers and drop the end; raises Refusal where a weight is not theirs alone."""
    graph = editor.graph
    for node in (*stream.writers.values(), *stream.readers.values()):
        for name in ("weight", "bias"):
            value = node.operand(name)
            if value is not None and (graph.constant(value) is None or len(graph.uses(value)) != 1):
                raise Refusal("a weight on the stream is shared, and would be stored twice", node.name)
    last = _last_writer(graph, end, stream) if end.shift is not None else None
    for name in {**stream.writers, **stream.readers}:
        node = editor.graph.node(name)
        rows = end.scale if name in stream.writers else None
        columns = 1 / end.scale if name in stream.readers else None
        _scale(editor, node, rows, columns, end.shift if name == last else None)
    final = end.nodes[-1] if last is not None or end.shift is None else end.nodes[0]
    editor.replace_uses(final.value, end.value)
    editor.remove_unread([final.name])


def _last_writer(graph: Graph, end: End, stream: Stream) -> str | None:
    """Return a writer whose output reaches the end and nothing else, None where there is none."""
    for name, node in stream.writers.items():
        value, alone = node.value, True
        while value != end.value and alone:
            uses = graph.uses(value)
            alone = len(uses) == 1 and uses[0][0].name not in stream.readers
            value = uses[0][0].value if alone else value
        if alone and len(graph.uses(end.value)) == 1:
            return name
    return None


def _scale(
    editor: Editor,
    node: Node,
    rows: torch.Tensor | None,
    columns: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> None:
    weight = editor.graph.constant(node.operand("weight"))
    assert weight is not None
    trailing = (1,) * (weight.dim() - 2)
    wide = weight.double()
    bias = editor.graph.constant(node.operand("bias"))
    added = None if bias is None else bias.double()
    if columns is not None:
        wide = wide * columns.reshape(1, -1, *trailing)
    if rows is not None:
        wide = wide * rows.reshape(-1, 1, *trailing)
        added = None if added is None else added * rows
    if shift is not None:
        added = shift if added is None else added + shift
    operands = dict(node.operands)
    for name, tensor in (("weight", wide), ("bias", added)):
        if tensor is not None:
            stored = tensor.to(weight.dtype).contiguous()
            operands[name] = editor.constant(stored, f"{node.name}_{name}", node.origin, before=node.name)
    value = editor.ahead_of(node, node.op, operands)
    editor.replace_uses(node.value, value)
    editor.remove_unread([node.name])


def _attempt(end: End, outcome: Outcome, reason: str, node: str) -> Attempt:
    names = tuple(n.name for n in end.nodes)
    text = f"gauge: a scale at the end of a residual stream; {reason}"
    return Attempt(end.nodes[0].origin, end.value.node, names[-1], names, outcome, text, node, form="gauge")
