r"""Relevance of a unit for the predicted class: layer-wise relevance propagation with the z+ rule.

From 1 at the largest logit, relevance goes back, none made and none lost:

    sums with stored weights    :math:`R_i = \sum_j (x_i^+ w_{ij}^+ + x_i^- w_{ij}^-) R_j / z_j`,
                                :math:`z_j = \sum_i x_i^+ w_{ij}^+ + x_i^- w_{ij}^- + 10^{-9}`
    means, attention's values   the same with :math:`|x|` and the operation's own coefficients
    moves, maximum              to the places read
    additions                   by :math:`|a| : |b|`; a stored summand gets nothing
    products                    all to the larger operand (a gate gets nothing), halves for equals
    norms, activations          unchanged

For inputs that are not negative the first line is the plain z+ rule; for others it stays without sign and
conserves too. A unit is worth what its readers send back to it. Yeom et al., arXiv 1912.08881; attention's
values after Achtibat et al., arXiv 2402.05602.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from compiler.compress.channel_groups import Channels, Group
from compiler.compress.channel_moves import MOVES, along, pointwise, reduction
from compiler.compress.channel_readers import by_unit, channel_dim, logits, readers_of, start
from compiler.compress.channel_scores import Rating
from compiler.compress.decision import Sample
from compiler.evaluate import run_node
from compiler.ir.dims import bind, resolve_operand
from compiler.ir.graph import Graph, Kind, Node, Value

CRITERION = "lrp"
EPSILON = 1e-9


@dataclass(frozen=True, eq=False)
class Relevance:
    """The relevance of each value, and what each reader sent back to its input."""

    of: Mapping[Value, torch.Tensor]
    read: Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class _Step:
    """One operation on its way back, with all values of the forward run."""

    graph: Graph
    node: Node
    values: Mapping[Value, Any]
    bindings: Mapping[str, Any]

    def run(self, changed: Mapping[Value, torch.Tensor], node: Node | None = None) -> list[torch.Tensor]:
        values = {v: self.values[v] for _, v in self.node.values()} | dict(changed)
        run_node(node or self.node, values, self.bindings, torch.float64)
        return [values[Value(self.node.name, i)] for i in range(len(self.node.types))]

    def flowing(self) -> list[Value]:
        """Return the floating values read that depend on the input, each once."""
        read = dict.fromkeys(v for _, v in self.node.values())
        kinds = (Kind.CONSTANT, Kind.STATE)
        flowing = [v for v in read if self.graph.node(v.node).kind not in kinds]
        return [v for v in flowing if self.values[v].is_floating_point()]


Outputs: TypeAlias = list[torch.Tensor]  # the relevance of each result of an operation
Sent: TypeAlias = Iterator[tuple[Value, torch.Tensor]]


@torch.no_grad()
def rate(
    graph: Graph, channels: Channels, groups: Sequence[Group], samples: Sequence[Sample]
) -> list[Rating]:
    """Return the relevance that readers send back to each unit, over all samples."""
    readers = readers_of(groups)
    total = torch.zeros(len(groups), channels.count, dtype=torch.float64)
    for sample in samples:
        read = propagate(graph, sample).read
        given = {
            r: read[r.node].abs().movedim(channel_dim(graph, r), -1).flatten(0, -2).sum(0)
            for r in readers
            if r.node in read
        }
        units = by_unit(graph, channels, given)
        for row, group in zip(total, groups, strict=True):
            for reader in group.readers:
                row += units.get(reader, 0)
    return [Rating(row[torch.from_numpy(g.units)]) for row, g in zip(total, groups, strict=True)]


@torch.no_grad()
def propagate(graph: Graph, sample: Sample) -> Relevance:
    """Return the relevance of all values for the largest logit of the first result."""
    values = start(graph, sample)
    bindings = bind([n.type for n in graph.inputs()], [t.shape for t in sample])
    for node in graph.ops():
        run_node(node, values, bindings, torch.float64)
    found: dict[Value, torch.Tensor] = {}
    results = [resolve_operand(o, values, bindings) for _, o in graph.output.operands]
    classes = logits(results)
    seed = torch.zeros_like(classes).scatter_(-1, classes.argmax(-1, keepdim=True), 1.0)
    place = next(i for i, r in enumerate(results) if isinstance(r, torch.Tensor) and r.is_floating_point())
    last: Value = graph.output.operands[place][1]
    found[last] = seed.movedim(-1, 1) if results[place].dim() == 4 else seed
    read: dict[str, torch.Tensor] = {}
    for node in reversed(graph.ops()):
        outputs = [Value(node.name, i) for i in range(len(node.types))]
        if not any(v in found for v in outputs):
            continue
        own = [found.get(v, torch.zeros(())).expand_as(values[v]) for v in outputs]
        for value, relevance in _rule(node)(_Step(graph, node, values, bindings), own):
            found[value] = found[value] + relevance if value in found else relevance
            read[node.name] = relevance
    return Relevance(found, read)


def _sums(step: _Step, own: Outputs) -> Sent:
    """A convolution or linear layer, its bias left out."""
    source, weight = step.node.operand("input"), step.node.operand("weight")
    operands = tuple((k, None if k == "bias" else o) for k, o in step.node.operands)
    bare = replace(step.node, operands=operands)
    parts = [
        (step.values[source].clamp(**limit), step.values[weight].clamp(**limit))
        for limit in ({"min": 0.0}, {"max": 0.0})
    ]
    total = sum((step.run({source: x, weight: w}, bare)[0] for x, w in parts), torch.zeros(()))
    share = own[0] / (total + EPSILON)
    back = [x * _vjp(step, {source: x}, [share], {weight: w}, bare)[0] for x, w in parts]
    yield source, back[0] + back[1]


def _vjp(
    step: _Step,
    at: Mapping[Value, torch.Tensor],
    weights: Sequence[torch.Tensor],
    fixed: Mapping[Value, torch.Tensor] | None = None,
    node: Node | None = None,
) -> list[torch.Tensor]:
    """Return the gradients of the operation's results, weighted, at some values."""
    with torch.enable_grad():
        leaves = {v: x.detach().requires_grad_() for v, x in at.items()}
        outputs = step.run({**(fixed or {}), **leaves}, node)
        pairs = [(y, w) for y, w in zip(outputs, weights, strict=True) if y.requires_grad]
        ys, ws = [y for y, _ in pairs], [w for _, w in pairs]
        found = torch.autograd.grad(ys, list(leaves.values()), ws, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, at.values(), strict=True)]


def _moved(step: _Step, own: Outputs) -> Sent:
    """An operation that takes each result from one place."""
    at = {v: step.values[v] for v in step.flowing()}
    if at:
        yield from zip(at, _vjp(step, at, own), strict=True)


def _shared(step: _Step, own: Outputs) -> Sent:
    """A sum with coefficients that are not negative: attention through its values, a mean."""
    source = step.node.operand("value") or step.flowing()[0]
    at = {source: step.values[source].abs()}
    share = own[0] / (step.run(at)[0] + EPSILON)
    yield source, at[source] * _vjp(step, at, [share])[0]


def _product(step: _Step, own: Outputs) -> Sent:
    """A product of two computed matrices: half to each, in proportion."""
    flowing = step.flowing()
    at = {v: step.values[v].abs() for v in flowing}
    total = step.run({v: step.values[v].abs() for _, v in step.node.values()})[0]
    fixed = {v: step.values[v].abs() for _, v in step.node.values() if v not in at}
    back = _vjp(step, at, [own[0] / (total + EPSILON)], fixed)
    yield from ((v, x * g / len(flowing)) for (v, x), g in zip(at.items(), back, strict=True))


def _first(step: _Step, own: Outputs) -> Sent:
    """A norm or a softmax: what it reads first has what it gives."""
    yield step.flowing()[0], own[0]


def _elementwise(step: _Step, own: Outputs) -> Sent:
    flowing = step.flowing()
    if len(flowing) == 1:
        yield flowing[0], own[0].sum_to_size(step.values[flowing[0]].shape)
    elif step.node.op.split(".")[1] in ("add", "sub"):
        sizes = [step.values[v].abs() + EPSILON for v in flowing]
        total = sum(sizes, torch.zeros(()))
        for value, size in zip(flowing, sizes, strict=True):
            yield value, (own[0] * size / total).sum_to_size(size.shape)
    else:
        largest = max((step.values[v].numel() for v in flowing), default=0)
        takers = [v for v in flowing if step.values[v].numel() == largest]
        for value in takers:
            yield value, (own[0] / len(takers)).sum_to_size(step.values[value].shape)


def _fallback(step: _Step, own: Outputs) -> Sent:
    """An operation without a rule: its relevance by |x times gradient|, the sum unchanged."""
    at = {v: step.values[v] for v in step.flowing()}
    if not at:
        return
    sizes = [(x * g).abs() for x, g in zip(at.values(), _vjp(step, at, own), strict=True)]
    total = sum((s.sum() for s in sizes), torch.zeros(())) + EPSILON
    yield from ((v, s / total * sum(r.sum() for r in own)) for v, s in zip(at, sizes, strict=True))


Rule: TypeAlias = Callable[[_Step, Outputs], Sent]
_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), _sums),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _sums),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "amax", "amin"), _moved),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "sum"), _shared),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _shared),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "scaled_dot_product_attention"), _shared),
    **dict.fromkeys(("matmul", "bmm", "mm"), _product),
    **dict.fromkeys(("layer_norm", "rms_norm", "batch_norm", "group_norm", "softmax", "_softmax"), _first),
    **dict.fromkeys(("roll", "flip"), _moved),
}


def _rule(node: Node) -> Rule:
    named = _BY_NAME.get(node.op.split(".")[1])
    if named is not None:
        return named
    if pointwise(node.op):
        return _elementwise
    return _moved if MOVES.get(node.op) not in (None, reduction, along) else _fallback
