r"""Gauge changes: scales moved to where another operation absorbs them (`merges.md` 1.9).

Through a homogeneous activation: `relu(S x) = S relu(x)` for `S > 0`, so a scale in front of one goes
behind it, into the weights that read it.

Along a residual stream: a final `a * h + b` on a stream goes away when every writer's rows are scaled
by `a`, every reader's columns by `1 / a`, and `b` is added to the last writer's bias. It needs all
`a` non-zero and nothing but linear operations on the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.merge.attempt import Attempt, Outcome, Refusal
from compiler.merge.certificate import agreement
from compiler.merge.stream import LINEAR, Stream, channel_axis, shared_weight, stream_of

_HOMOGENEOUS = ("aten.relu.default", "aten.leaky_relu.default", "aten.max_pool2d.default", "aten.abs.default")


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
    absorbed = all(r.op in LINEAR for r in graph.users(node.name))
    whole = graph.type_of(source.operand("self")) == source.type and len(graph.uses(source.value)) == 1
    return source if absorbed and whole else None


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
            residual = _rewrite(editor, end, stream)
        except Refusal as refusal:
            if not refusal.quiet:
                attempts.append(_attempt(end, Outcome.REFUSED, refusal.reason, refusal.node))
            continue
        reason = f"{len(stream.writers)} writers and {len(stream.readers)} readers of the stream absorb it"
        attempts.append(_attempt(end, Outcome.MERGED, reason, "", residual))
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

    def writes(node: Node, axis: int) -> bool:
        return node.op in LINEAR and channel_axis(node) == axis

    def reads(node: Node, path: str, axis: int) -> bool:
        if node.name == end.nodes[0].name:
            return True
        grouped = node.op != "aten.linear.default" and node.operand("groups") != 1
        return node.op in LINEAR and path == "input" and channel_axis(node) == axis and not grouped

    stream = stream_of(graph, end.value, end.axis, writes, reads)
    if stream.refusal is not None:
        raise stream.refusal
    del stream.readers[end.nodes[0].name]
    return stream


def _rewrite(editor: Editor, end: End, stream: Stream) -> float | None:
    """Scale writers and readers, drop the end and return the float64 residual.

    Raises Refusal where a weight is not theirs alone.
    """
    graph = editor.graph
    refusal = shared_weight(graph, (*stream.writers.values(), *stream.readers.values()))
    if refusal is not None:
        raise refusal
    last = _last_writer(graph, end, stream) if end.shift is not None else None
    before = graph.copy()
    pairs: list[tuple[Value, Value]] = []
    for name in {**stream.writers, **stream.readers}:
        node = editor.graph.node(name)
        rows = end.scale if name in stream.writers else None
        columns = 1 / end.scale if name in stream.readers else None
        made = _scale(editor, node, rows, columns, end.shift if name == last else None)
        if name in stream.readers and name not in stream.writers:
            pairs.append((node.value, made))
    final = end.nodes[-1] if last is not None or end.shift is None else end.nodes[0]
    writers = [before.node(n) for n in stream.writers if n not in stream.readers]
    entries = [v for w in writers for _, v in w.values() if before.constant(v) is None]
    residual = agreement(before, graph, [*pairs, (final.value, end.value)], entries)
    editor.replace_uses(final.value, end.value)
    editor.remove_unread([final.name])
    return residual


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
) -> Value:
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
    return value


def _attempt(end: End, outcome: Outcome, reason: str, node: str, residual: float | None = None) -> Attempt:
    names = tuple(n.name for n in end.nodes)
    text = f"gauge: a scale at the end of a residual stream; {reason}"
    site, entry = end.nodes[0].origin, end.value.node
    return Attempt(site, entry, names[-1], names, outcome, text, node, form="gauge", residual=residual)
