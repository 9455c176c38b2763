r"""LayerNorm's mean taken off where the stream is written: LayerNorm becomes RMSNorm (`merges.md` 1.8).

With `C = I - 1 1^T / n`, `layer_norm(x) = rms_norm(C x)`. Where every writer of the stream is linear and
nothing but layer norms reads it, each writer takes `C` into its weights:

    W' = W - mean over rows(W),    b' = b - mean(b)

for a matrix, a table or a constant alike, and every layer norm on the stream drops its mean. Exact over
the reals. An RMSNorm has no shift: one that nothing absorbed becomes an add behind it. A runtime may have a
kernel for the one normalisation and compose the other, so that the price decides; to the prior both cost
the same, and the layer norm stays.

Ashkboos et al., "SliceGPT", ICLR 2024, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.cost.kernel import Kernel, TensorSpec, kernel_call, kernel_of
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, TensorType, Value
from compiler.merge.attempt import Attempt, Outcome, Refusal, Work
from compiler.merge.certificate import agreement
from compiler.merge.describe import describe, window
from compiler.merge.price import Price
from compiler.merge.stream import LINEAR, Stream, channel_axis, shared_weight, stream_of

_NORM, _RMS = "aten.layer_norm.default", "aten.rms_norm.default"
_TABLE, _EXPAND = "aten.embedding.default", "aten.expand.default"


@dataclass(frozen=True)
class Centring:
    """A stream whose layer norms can drop their means; `axis` of the first norm's input holds channels."""

    stream: Stream
    norms: tuple[Node, ...]


def centre(graph: Graph, price: Price) -> tuple[Graph, list[Attempt]]:
    """Return the graph with cheaper RMSNorms in the place of layer norms, and the attempts."""
    attempts: list[Attempt] = []
    editor = Editor(graph)
    for found in _centrings(graph):
        if isinstance(found, Attempt):
            attempts.append(found)
            continue
        kernels = _kernels(graph, found)
        judge = price.for_all(k for side in kernels for k in side)
        before, after = (sum(map(judge.kernel, side)) for side in kernels)
        better = after < before * (1 - 1e-9)
        residual = _rewrite(editor, found) if better else None
        attempts.append(_attempt(graph, found, before, after, judge.label, residual, better))
    return editor.finish(), attempts


def centring_kernels(graph: Graph) -> Iterator[Kernel]:
    """Yield the kernels whose latency decides between the two normalisations of each stream."""
    for found in _centrings(graph):
        if isinstance(found, Centring):
            for kernels in _kernels(graph, found):
                yield from kernels


def _centrings(graph: Graph) -> Iterator[Centring | Attempt]:
    """Yield every stream that layer norms read, and what keeps a stream with a linear writer from it."""
    seen: set[str] = set()
    for node in graph.ops():
        if node.name in seen or not _normalises(node, node.type.rank - 1):
            continue
        stream = stream_of(graph, node.operand("input"), node.type.rank - 1, _Writes(graph, node), _reads)
        seen |= {node.name, *stream.readers}
        refusal = stream.refusal or shared_weight(graph, stream.writers.values())
        if refusal is None:
            yield Centring(stream, tuple(stream.readers.values()))
        elif not refusal.quiet:
            yield _refused(graph, node, refusal)


@dataclass(frozen=True)
class _Writes:
    """Tells whether a node writes the stream of `norm` linearly, with weights of its own."""

    graph: Graph
    norm: Node

    def __call__(self, node: Node, axis: int) -> bool:
        if node.kind is Kind.CONSTANT:
            return self._wide(node.type, axis)
        if node.op == _EXPAND:
            source = self.graph.constant(node.operand("self"))
            return source is not None and self._wide(
                TensorType(tuple(source.shape), source.dtype), axis - node.type.rank + source.dim()
            )
        if node.op == _TABLE:
            return axis == node.type.rank - 1 and self.graph.constant(node.operand("weight")) is not None
        if node.op not in LINEAR or channel_axis(node) != axis:
            return False
        stored = all(
            v is None or self.graph.constant(v) is not None for v in map(node.operand, ("weight", "bias"))
        )
        return stored and (node.op == LINEAR[0] or node.operand("groups") == 1)

    def _wide(self, type_: TensorType, axis: int) -> bool:
        return 0 <= axis < type_.rank and type_.shape[axis] == self.norm.type.shape[-1]


def _normalises(node: Node, axis: int) -> bool:
    if node.op != _NORM:
        return False
    return len(node.operand("normalized_shape")) == 1 and axis == node.type.rank - 1 and node.type.static


def _reads(node: Node, path: str, axis: int) -> bool:
    return path == "input" and _normalises(node, axis)


def _kernels(graph: Graph, found: Centring) -> tuple[list[Kernel], list[Kernel]]:
    """Return the kernels of the norms as they are, and of what would take their place."""
    after: list[Kernel] = []
    for node in found.norms:
        before = kernel_of(graph, node)
        given = dict(before.operands)
        kept = {k: given[k] for k in ("input", "normalized_shape", "weight", "eps")}
        after.append(kernel_call(_RMS, kept))
        if given["bias"] is not None:
            source: TensorSpec = given["input"]
            after.append(kernel_call("aten.add.Tensor", {"self": source, "other": given["bias"]}))
    return [kernel_of(graph, node) for node in found.norms], after


def _rewrite(editor: Editor, found: Centring) -> float | None:
    """Centre the writers, make the norms RMSNorms, and return the float64 residual."""
    before = editor.graph.copy()
    axes = {v.node: axis for v, axis in found.stream.axes.items()}
    for name in found.stream.writers:
        _centre_writer(editor, editor.graph.node(name), axes[name])
    pairs = [(node.value, _rms(editor, editor.graph.node(node.name))) for node in found.norms]
    data = (before.node(n).operands[:2] for n, w in found.stream.writers.items() if w.kind is Kind.OP)
    entries = [
        v for operands in data for _, v in operands if isinstance(v, Value) and before.constant(v) is None
    ]
    return agreement(before, editor.graph, pairs, entries)


def _centre_writer(editor: Editor, node: Node, axis: int) -> None:
    if node.kind is Kind.CONSTANT:
        editor.replace_uses(node.value, _centred(editor, node.value, axis, node.name))
        editor.remove_unread([node.name])
        return
    operands: dict[str, Operand] = dict(node.operands)
    if node.op == _EXPAND:
        inner = editor.graph.type_of(node.operand("self")).rank
        operands["self"] = _centred(editor, node.operand("self"), axis - node.type.rank + inner, node.name)
    elif node.op == _TABLE:
        operands["weight"] = _centred(editor, node.operand("weight"), 1, node.name)
    else:
        for key in ("weight", "bias"):
            if node.operand(key) is not None:
                operands[key] = _centred(editor, node.operand(key), 0, node.name)
    editor.replace_uses(node.value, editor.ahead_of(node, node.op, operands))
    editor.remove_unread([node.name])


def _centred(editor: Editor, value: Value, dim: int, before: str) -> Value:
    """Return a stored tensor with its mean over a dimension taken off, in float64 and cast once."""
    tensor = editor.graph.constant(value)
    assert tensor is not None
    wide = tensor.double()
    stored = (wide - wide.mean(dim, keepdim=True)).to(tensor.dtype)
    return editor.constant(
        stored, f"{value.node}_centred", editor.graph.producer(value).origin, before=before
    )


def _rms(editor: Editor, node: Node) -> Value:
    kept = {k: node.operand(k) for k in ("input", "normalized_shape", "weight", "eps")}
    value = editor.ahead_of(node, _RMS, kept)
    if node.operand("bias") is not None:
        value = editor.ahead_of(node, "aten.add.Tensor", {"self": value, "other": node.operand("bias")})
    editor.replace_uses(node.value, value)
    editor.remove_unread([node.name])
    return value


def _attempt(
    graph: Graph,
    found: Centring,
    before: float,
    after: float,
    label: str,
    residual: float | None,
    better: bool,
) -> Attempt:
    first, writers = found.norms[0], len(found.stream.writers)
    shifts = sum(n.operand("bias") is not None for n in found.norms)
    made = ("rms_norm",) * len(found.norms) + ("add",) * shifts
    reason = (
        f"{writers} writers of the stream take off their mean, so that RMSNorm does for LayerNorm: "
        f"{after / max(before, 1e-12):.2f} times the cost ({label})"
    )
    return Attempt(
        first.origin,
        first.operand("input").node,
        first.name,
        tuple(n.name for n in found.norms),
        Outcome.MERGED if better else Outcome.KEPT,
        reason,
        "" if better else first.name,
        form="LayerNorm of a centred stream",
        before=Work(tuple(describe(graph, n) for n in found.norms), cost=before),
        after=Work(made, cost=after),
        priced_by=label,
        residual=residual,
    )


def _refused(graph: Graph, node: Node, refusal: Refusal) -> Attempt:
    return Attempt(
        node.origin,
        node.operand("input").node,
        node.name,
        (node.name,),
        Outcome.REFUSED,
        f"LayerNorm keeps its mean: {refusal.reason}",
        refusal.node,
        window=window(graph, refusal.node) if refusal.node in graph else (),
    )
