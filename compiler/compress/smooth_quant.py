r"""SmoothQuant: activation outliers are moved into the weights that read them.

Where a norm, or a linear layer, feeds linear layers, for any positive s

    :math:`W x = (W \,\mathrm{diag}(s)) (\mathrm{diag}(s)^{-1} x), \qquad
    s_j = \frac{\max |x_j|^\alpha}{\max_i |W_{ij}|^{1 - \alpha}}`

with the maximum over calibration samples and over all readers. :math:`1 / s` goes into the norm's own
weight and bias, or into the rows of the layer before; equal over the reals, and the channels of x are
then alike, so that one int8 scale for all of them loses less. Source: Xiao et al., arXiv 2211.10438.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from compiler.compress.track import Track
from compiler.compress.weights import LINEAR, along, renew, weighted
from compiler.errors import UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.verify import verify

ALPHA = 0.5
LEAST = 1e-5  # of a channel's largest value: what is silent on the samples is not blown up

NORMS = ("aten.layer_norm.default", "aten.rms_norm.default")
_THROUGH = ("aten.relu.default", "aten.leaky_relu.default")


@dataclass(frozen=True)
class Joint:
    """A value that linear layers alone read, and the norm or linear layer that can scale its channels."""

    value: Value
    source: str
    readers: tuple[str, ...]


def joints(graph: Graph) -> tuple[Joint, ...]:
    """Return where scales can be moved, in topological order."""
    return tuple(_joints(graph))


def smooth(graph: Graph, samples: Sequence[Sequence[torch.Tensor]], alpha: float = ALPHA) -> Graph:
    """Return the graph with its activations' outliers moved into the weights; float outputs stay (REAL).

    `samples` hold flat inputs of calls. Raises UsageError without any, and for an alpha outside [0, 1].
    """
    if not samples:
        raise UsageError("SmoothQuant reads activations: give at least one calibration sample")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is the share of the difficulty moved into weights, in [0, 1]; got {alpha}")
    editor = Editor(graph)
    found = {joint.value.node: joint for joint in joints(graph)}
    track = Track(graph, samples)
    for node in graph.ops():
        track.reach(node.name)  # of the graph as it was: what a joint does to the float values is undone
        if node.name in found:
            joint = found[node.name]
            largest = torch.stack([_channels(x).abs().amax(0) for x in track.read(joint.value)]).amax(0)
            _move(editor, joint, largest.double(), alpha)
    result = editor.finish()
    verify(result)
    return result


def _joints(graph: Graph) -> Iterator[Joint]:
    for node in graph.ops():
        uses = graph.uses(node.value)
        readers = tuple(reader.name for reader, _ in uses)
        if not uses or not all(path == "input" and _linear(graph, reader) for reader, path in uses):
            continue
        source = _source(graph, node)
        if source is not None and len({*readers, source}) == len(readers) + 1:
            yield Joint(node.value, source, readers)


def _source(graph: Graph, node: Node) -> str | None:
    """Return the norm or linear layer whose scale reaches this value channel by channel."""
    while node.op in _THROUGH or node.op == "aten.mul.Tensor":
        options = ("self",) if node.op in _THROUGH else ("other", "self")
        steps = [graph.producer(o) for o in map(node.operand, options) if _full(graph, node, o)]
        node = next((s for s in steps if s.op in (*_THROUGH, *NORMS, LINEAR)), node)
        if node not in steps:
            return None
    if node.op == LINEAR:
        return node.name if _linear(graph, node) else None
    if node.op not in NORMS or len(node.operand("normalized_shape")) != 1:
        return None
    return node.name if all(_own(graph, node, key) for key in ("weight", "bias")) else None


def _full(graph: Graph, node: Node, operand: object) -> bool:
    """Tell whether an operand is computed, of the node's own shape, and read by the node alone."""
    if not isinstance(operand, Value) or operand.node in graph.constants:
        return False
    return graph.type_of(operand) == node.type and len(graph.uses(operand)) == 1


def _linear(graph: Graph, node: Node) -> bool:
    if node.op != LINEAR or not weighted(graph, node):
        return False
    return graph.constant(node.operand("weight")) is not None and _own(graph, node, "weight")


def _own(graph: Graph, node: Node, key: str) -> bool:
    value = node.operand(key)
    return value is None or (graph.constant(value) is not None and len(graph.uses(value)) == 1)


def _move(editor: Editor, joint: Joint, largest: torch.Tensor, alpha: float) -> None:
    graph = editor.graph
    readers = [graph.node(name) for name in joint.readers]
    weights = [_stored(graph, node, "weight") for node in readers]
    wide = torch.stack([w.double().abs().amax(0) for w in weights]).amax(0)
    dead = (largest == 0) | (wide == 0)
    scale = largest.clamp_min(LEAST * float(largest.max())) ** alpha
    scale = scale / wide.clamp_min(LEAST * float(wide.max())) ** (1 - alpha)
    scale = torch.where(dead, 1.0, scale)
    divide_source(editor, joint.source, scale, weights[0].dtype)
    for node, weight in zip(readers, weights, strict=True):
        renew(editor, node, {"weight": (weight.double() * scale).to(weight.dtype)})


def divide_source(editor: Editor, name: str, scale: torch.Tensor, dtype: torch.dtype) -> None:
    """Divide the rows of a norm's or a layer's own constants; a norm without a weight gets one."""
    source = editor.graph.node(name)
    keys = [key for key in ("weight", "bias") if source.operand(key) is not None]
    wide = {key: _stored(editor.graph, source, key).double() for key in keys}
    if source.op in NORMS:
        wide.setdefault("weight", torch.ones_like(scale))
    renew(editor, source, {key: (t / along(scale, t)).to(dtype) for key, t in wide.items()})


def _stored(graph: Graph, node: Node, key: str) -> torch.Tensor:
    found = graph.constant(node.operand(key))
    assert found is not None, f"{key} of {node.name!r} is no constant"
    return found


def _channels(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
