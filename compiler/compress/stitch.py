r"""Two models of one family, joined: part of the model gives way to a part of the smaller donor.

Where both are one value wide and agree in all but the channels, features are carried over by the affine
map that fits best on the samples,

    :math:`[V; c] = (A^\top A + \lambda I)^{-1} A^\top Y, \quad A = [X\ 1]`

with X the features that leave and Y those that the other model has there: a linear layer for tokens, a
1x1 convolution for pictures. Nothing is trained. Rows must be 10 times the width that leaves: at as many
rows as columns the fit is perfect and worthless. Errors grow with the number of stitches, so there are
one or two:

    leave:i     the model up to point i, then the donor to its end
    enter:i     the donor up to the place of point i, then the model
    detour:i-j  the model, the donor from i to j, the model again

Points are block boundaries spread over the work; the second stitch is fitted to what really arrives.
Source: SN-Netv2, arXiv 2307.00154; the ridge is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from compiler.compress.cuts import cuts
from compiler.compress.decision import Offer, Setting
from compiler.compress.least_squares import refit
from compiler.compress.observe import observed, positions, rows
from compiler.compress.segments import work
from compiler.compress.sites import accepted
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, TensorType, Value
from compiler.ir.sums import is_sum
from compiler.passes.dead_code import dead_code

METHOD = "stitch"
SITE = "model"
RIDGE = 1e-4
ROWS_PER_COLUMN = 10
POINTS = 4


@dataclass(frozen=True)
class Point:
    """A value of the model and the one of the donor that stands for it; `depth` is the share of work done."""

    own: Value
    other: Value
    depth: float
    leaves: bool  # there are rows enough to fit the donor's features to the model's here
    enters: bool  # and the other way round


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return one site with the joins that the samples can fit, the one that replaces least first."""
    points = _points(graph, setting)
    replaced: dict[str, float] = {}
    for i, first in enumerate(points, start=1):
        replaced |= {f"leave:{i}": 1 - first.depth} if first.leaves else {}
        replaced |= {f"enter:{i}": first.depth} if first.enters else {}
        for j, last in enumerate(points[i:], start=i + 1):
            if first.leaves and last.enters:
                replaced[f"detour:{i}-{j}"] = last.depth - first.depth
    options = tuple(sorted(replaced, key=lambda option: (replaced[option], option)))
    return (Offer(SITE, options, frozenset(n.name for n in graph.ops())),) if options else ()


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph joined with the donor at the chosen points."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    if not chosen or setting.donor is None:
        return graph
    kind, _, numbers = chosen[SITE].partition(":")
    points = [_points(graph, setting)[int(number) - 1] for number in numbers.split("-")]
    joined, names, results = _side_by_side(graph, setting.donor)
    if kind in ("leave", "detour"):
        joined = _stitched(joined, points[0].own, _named(points[0].other, names), setting)
    if kind in ("enter", "detour"):
        joined = _stitched(joined, _named(points[-1].other, names), points[-1].own, setting)
    else:
        joined = _giving(joined, results)
    return dead_code(joined)


def fit(features: torch.Tensor, target: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight [out, in] and bias [out] from rows of features that leave to those that enter."""
    return refit(features, target, ridge)


def _points(graph: Graph, setting: Setting) -> tuple[Point, ...]:
    """Return at most POINTS places where the two models can be joined, spread over the model's work."""
    donor, count = setting.donor, len(setting.samples)
    if donor is None or not count or not _alike(graph, donor):
        return ()
    own, other = _boundaries(graph), _boundaries(donor)
    pairs = []
    for value, depth in own.items():
        shape = _outer_shape(graph, value)
        fitting = [v for v in other if _outer_shape(donor, v) == shape]
        if fitting and 0 < depth < 1:
            match = min(fitting, key=lambda v: abs(other[v] - depth))
            enough = (_enough(graph, value, count), _enough(donor, match, count))
            pairs.append(Point(value, match, depth, *enough))
    wanted = [(i + 1) / (POINTS + 1) for i in range(POINTS)]
    nearest = {min(range(len(pairs)), key=lambda i: abs(pairs[i].depth - w)) for w in wanted if pairs}
    return tuple(pairs[i] for i in sorted(nearest))


def _alike(graph: Graph, donor: Graph) -> bool:
    """Tell whether two models take and give the same."""
    types = [
        ([n.type for n in g.inputs()], [g.type_of(v) for _, v in g.output.values()]) for g in (graph, donor)
    ]
    return types[0] == types[1]


def _boundaries(graph: Graph) -> dict[Value, float]:
    """Return the cuts behind residual sums, or all where there are none, with the share of work done."""
    found = [v for v in cuts(graph) if graph.type_of(v).rank in (2, 3, 4)]
    sums = [v for v in found if is_sum(graph, graph.producer(v))]
    done, total = {}, 0.0
    for node in graph.ops():
        total += work(graph, node)
        done[node.name] = total
    return {v: done[v.node] / total for v in sums or found}


def _outer_shape(graph: Graph, value: Value) -> tuple[object, ...]:
    """Return the shape without the channels."""
    shape = list(graph.type_of(value).shape)
    shape[_axis(len(shape))] = -1
    return tuple(shape)


def _axis(rank: int) -> int:
    return 1 if rank == 4 else rank - 1


def _enough(graph: Graph, value: Value, samples: int) -> bool:
    type_ = graph.type_of(value)
    width = type_.shape[_axis(type_.rank)]
    have = positions(graph, value, _axis(type_.rank), samples)
    return isinstance(width, int) and have >= ROWS_PER_COLUMN * width


def _side_by_side(graph: Graph, donor: Graph) -> tuple[Graph, dict[str, str], list[Operand]]:
    """Return both models on the same inputs, the donor's names there, and the donor's results."""
    editor = Editor(graph)
    names = {d.name: n.name for d, n in zip(donor.inputs(), graph.inputs(), strict=True)}
    for node in donor.nodes():
        if node.kind in (Kind.OP, Kind.CONSTANT):
            names[node.name] = editor.name(f"donor_{node.name}")
            operands = tuple((key, _renamed(operand, names)) for key, operand in node.operands)
            origin = f"donor.{node.origin}" if node.origin else "donor"
            copy = replace(node, name=names[node.name], operands=operands, origin=origin)
            editor.add(copy, before="output")
        if node.kind is Kind.CONSTANT:
            editor.graph.constants[names[node.name]] = donor.constants[node.name]
    return editor.finish(), names, [_renamed(o, names) for _, o in donor.output.operands]


def _stitched(graph: Graph, leaves: Value, enters: Value, setting: Setting) -> Graph:
    """Return the graph with what entered in one model computed from what leaves the other."""
    type_ = graph.type_of(enters)
    axis = _axis(type_.rank)
    data = list(observed(graph, [leaves, enters], setting.samples))
    features, target = (torch.cat([rows(d[v], axis) for d in data]) for v in (leaves, enters))
    weight, bias = fit(features, target, RIDGE)
    editor = Editor(graph)
    reader = next(n for n in graph.nodes() if any(v == enters for _, v in n.values()))
    kernel = weight[:, :, None, None] if type_.rank == 4 else weight
    stored = [
        editor.constant(t.to(type_.dtype).contiguous(), f"stitch_{what}", f"stitch.{what}", reader.name)
        for t, what in ((kernel, "weight"), (bias, "bias"))
    ]
    op = "aten.conv2d.default" if type_.rank == 4 else "aten.linear.default"
    operands = {"input": leaves, "weight": stored[0], "bias": stored[1]}
    made = editor.op(
        op, operands, [TensorType(type_.shape, type_.dtype)], "stitch", "stitch", "", reader.name
    )
    editor.replace_uses(enters, made, lambda node: node.name != made.node)
    return editor.finish()


def _giving(graph: Graph, results: list[Operand]) -> Graph:
    editor = Editor(graph)
    operands = tuple((f"r{i}", result) for i, result in enumerate(results))
    editor.update(Node("output", Kind.OUTPUT, operands=operands))
    return editor.finish()


def _renamed(operand: Operand, names: Mapping[str, str]) -> Operand:
    if isinstance(operand, tuple):
        return tuple(_renamed(item, names) for item in operand)
    return _named(operand, names) if isinstance(operand, Value) else operand


def _named(value: Value, names: Mapping[str, str]) -> Value:
    return Value(names[value.node], value.index)
