r"""A layer as two narrow ones, cut where the outputs vary least, with the error known beforehand.

For a layer :math:`y = W x + b` with outputs of mean :math:`m` and scatter
:math:`S = \sum (y - m)(y - m)^\top = U \Lambda U^\top`, the best map of rank r keeps the first r
directions,

    :math:`\hat y = m + U_r U_r^\top (y - m) = (U_r D)\,(D^{-1} U_r^\top W x) + b',
    \qquad b' = m + U_r U_r^\top (b - m)`

and its squared error over all rows is exactly :math:`\sum_{i>r} \lambda_i`. It is the same map as the
truncated SVD of :math:`W L` with :math:`L L^\top` the covariance of the inputs, but needs only outputs:
no patches for a convolution, which becomes one to r channels and a 1x1. Rows must be 10 times the
directions there are to tell apart, min(in, out). D brings the r channels to one size: what lies between
the two layers can then be rounded with one scale.

A rank pays in multiply-accumulates and in weights below in out / (in + out), with `in` the taps of one
output. Sources: PELA (arXiv 2310.10700) for the idea of rank as a decision; the data-aware form is the
classical reduced-rank regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from compiler.compress.decision import Offer, Setting
from compiler.compress.observe import channel_axis, observed, positions, rows
from compiler.compress.sites import LINEAR, accepted, bias_of, flat_shape, layers, number, weight_of
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType
from compiler.ir.schema import normalize

METHOD = "low_rank"
SHARES = (0.75, 0.5, 0.35, 0.25)  # of the rank at which a pair costs what the layer does
ROWS_PER_DIRECTION = 10


@dataclass(frozen=True)
class Spread:
    """The outputs of a layer over all samples: mean [out], scatter [out, out], and the rows counted."""

    mean: torch.Tensor
    scatter: torch.Tensor
    rows: int


@dataclass(frozen=True)
class Pair:
    """`wide @ narrow` stands for a weight; narrow is [r, in...], wide [out, r].

    `error` is the root of the squared error summed over the rows of the spread, over the reals.
    """

    narrow: torch.Tensor
    wide: torch.Tensor
    bias: torch.Tensor
    error: float


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return the layers with ranks that cost less, where the samples can tell the directions apart."""
    found = ((site, node, _ranks(graph, node, setting)) for site, node in layers(graph).items())
    return tuple(
        Offer(site, tuple(f"rank:{r}" for r in ranks), frozenset({node.name}))
        for site, node, ranks in found
        if ranks
    )


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph with each chosen layer as a pair; the second of the two keeps the name."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    if not chosen:
        return graph
    found = layers(graph)
    spreads = output_spreads(graph, [found[site] for site in chosen], setting)
    editor = Editor(graph)
    for site, option in chosen.items():
        node = found[site]
        pair = truncated(weight_of(graph, node), bias_of(graph, node), spreads[node.name], number(option))
        _emit(editor, node, pair)
    return editor.finish()


def truncated(weight: torch.Tensor, bias: torch.Tensor, spread: Spread, rank: int) -> Pair:
    """Return the pair of a rank that is best over the rows of a spread; [out, in...] and [out] in."""
    values, vectors = torch.linalg.eigh(spread.scatter)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    kept = vectors[:, :rank]
    size = (values[:rank] / max(spread.rows, 1)).sqrt()
    size = size.clamp_min(1e-3 * float(size.max())).clamp_min(1e-30)
    narrow = (kept.T @ weight.flatten(1)) / size[:, None]
    shift = spread.mean + kept @ (kept.T @ (bias - spread.mean))
    error = float(values[rank:].sum().sqrt())
    return Pair(narrow.reshape(rank, *weight.shape[1:]), kept * size, shift, error)


def output_spreads(graph: Graph, nodes: Sequence[Node], setting: Setting) -> dict[str, Spread]:
    """Return layer -> the spread of its outputs over the samples."""
    shifts: dict[str, torch.Tensor] = {}
    sums: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}
    for values in observed(graph, [n.value for n in nodes], setting.samples):
        for node in nodes:
            y = rows(values[node.value], channel_axis(graph, node))
            # Around a first mean, so that a large offset costs no digits.
            y = y - shifts.setdefault(node.name, y.mean(0))
            total, square = sums.setdefault(
                node.name, [torch.zeros_like(y[0]), y.new_zeros((y.shape[1],) * 2)]
            )
            total += y.sum(0)
            square += y.T @ y
            counts[node.name] = counts.get(node.name, 0) + len(y)
    result = {}
    for name, (total, square) in sums.items():
        mean = total / counts[name]
        scatter = square - counts[name] * torch.outer(mean, mean)
        result[name] = Spread(mean + shifts[name], scatter, counts[name])
    return result


def _ranks(graph: Graph, node: Node, setting: Setting) -> list[int]:
    """Return ranks on the device's step, the greatest first; none where the layer or the data forbid it."""
    outputs, inputs = flat_shape(graph, node)
    have = positions(graph, node.value, channel_axis(graph, node), len(setting.samples))
    if node.operand("groups", 1) != 1 or have < ROWS_PER_DIRECTION * min(inputs, outputs):
        return []
    even = inputs * outputs / (inputs + outputs)
    ranks = {int(share * even) // setting.step * setting.step for share in SHARES}
    return sorted(ranks - {0}, reverse=True)


def _emit(editor: Editor, node: Node, pair: Pair) -> None:
    old = [node.operand(key) for key in ("weight", "bias")]
    dtype, rank = node.type.dtype, len(pair.narrow)
    origin = editor.graph.node(old[0].node).origin
    narrow, wide, bias = (
        editor.constant(tensor.to(dtype).contiguous(), f"{old[0].node}_{part}", f"{origin}.{part}", node.name)
        for tensor, part in (
            (pair.narrow, "narrow"),
            (pair.wide if node.op == LINEAR else _pointwise(pair), "wide"),
            (pair.bias, "bias"),
        )
    )
    axis = channel_axis(editor.graph, node) % node.type.rank
    shape = (*node.type.shape[:axis], rank, *node.type.shape[axis + 1 :])
    first = dict(node.operands) | {"weight": narrow, "bias": None}
    middle = editor.op(
        node.op,
        first,
        [TensorType(shape, dtype)],
        f"{node.name}_narrow",
        f"{node.origin or 'model'}.narrow",
        node.source,
        node.name,
    )
    second = normalize(node.op, (), {"input": middle, "weight": wide, "bias": bias})
    editor.update(replace(node, operands=second))
    editor.remove_unread([v.node for v in old if v is not None])


def _pointwise(pair: Pair) -> torch.Tensor:
    return pair.wide.reshape(*pair.wide.shape, *(1 for _ in pair.narrow.shape[2:]))
