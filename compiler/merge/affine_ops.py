"""Which ATen operations are affine in their data, and their tap maps (`merges.md` 1.6).

`affine(graph, node)` answers with an `AffineNode`: the data operands, and for a single operand a
function that gives its tap map and static shift. Everything else is a barrier. Adding an
operation is one function in `_RULES`.

`layout` says where the channels are: FIRST (`[N, C, *spatial]`), LAST (`[..., C]`, no spatial axes)
or None where the operation does not care. On a `[N, C]` tensor both mean LAST.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import torch

from compiler.ir.graph import Dim, Graph, Kind, Node, Operand, TensorType, Value
from compiler.merge.attempt import Refusal
from compiler.merge.shift import Shift, plus, push
from compiler.merge.tap_map import TapMap, diagonal


class Layout(StrEnum):
    """Where the channel axis is."""

    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True)
class Term:
    """One data operand with its factor: `alpha` of an add, -1 for the right side of a sub."""

    value: Value
    factor: float = 1.0


Build = Callable[[tuple[Dim, ...]], tuple[TapMap, Shift]]


@dataclass(frozen=True)
class AffineNode:
    """An affine operation: a sum of terms (`build` is None), or a map of one term."""

    terms: tuple[Term, ...]
    layout: Layout | None
    build: Build | None = None


def affine(graph: Graph, node: Node) -> AffineNode | None:
    """Return the node as an affine operation, or None where it is a barrier."""
    rule = _RULES.get(node.op)
    if node.kind is not Kind.OP or rule is None or not node.type.dtype.is_floating_point:
        return None
    return rule(graph, node)


def layout_of(type_: TensorType, layout: Layout | None) -> Layout:
    """Return the layout of a value: rank 2 and below is LAST."""
    return Layout.LAST if type_.rank <= 2 else (layout or Layout.FIRST)


def spatial(type_: TensorType, layout: Layout) -> tuple[Dim, ...]:
    """Return the spatial sizes of a type under a layout."""
    return type_.shape[2:] if layout is Layout.FIRST else ()


def channels(type_: TensorType, layout: Layout) -> int:
    """Return the channel count; raises Refusal where it is symbolic."""
    count = type_.shape[1 if layout is Layout.FIRST else -1]
    if not isinstance(count, int):
        raise Refusal("the channel count is only known at run time")
    return count


def _one(value: Operand, layout: Layout | None, build: Build) -> AffineNode | None:
    return AffineNode((Term(value),), layout, build) if isinstance(value, Value) else None


def _wide(tensor: torch.Tensor | None) -> Shift:
    return None if tensor is None else tensor.detach().double()


def _double(graph: Graph, value: Operand) -> torch.Tensor | None:
    return _wide(graph.constant(value))


def _convolution(graph: Graph, node: Node) -> AffineNode | None:
    weight, bias = graph.constant(node.operand("weight")), graph.constant(node.operand("bias"))
    if weight is None or (node.operand("bias") is not None and bias is None) or node.operand("transposed"):
        return None
    rank = weight.dim() - 2
    if node.type.rank != rank + 2:
        return None  # an unbatched convolution
    stride, dilation = (_per_axis(node.operand(k), rank) for k in ("stride", "dilation"))
    groups, kernel = int(node.operand("groups")), tuple(weight.shape[2:])
    left, right = _padding(node.operand("padding"), kernel, dilation)
    source: Value = node.operand("input")

    def build(size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        indices = _indices(kernel)
        offsets = tuple(tuple(d * a - p for d, a, p in zip(dilation, i, left, strict=True)) for i in indices)
        matrices = (
            weight.double().flatten(2).permute(2, 0, 1).reshape(len(indices), groups, -1, weight.shape[1])
        )
        slack = tuple(
            p + q - d * (k - 1) - 1 for p, q, d, k in zip(left, right, dilation, kernel, strict=True)
        )
        return _sorted(TapMap(offsets, matrices, stride, slack, size, node.type.shape[2:])), _wide(bias)

    return _one(source, Layout.FIRST, build)


def _indices(kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(product(*map(range, kernel)))


def _sorted(taps: TapMap) -> TapMap:
    order = sorted(range(len(taps.offsets)), key=lambda i: taps.offsets[i])
    offsets = tuple(taps.offsets[i] for i in order)
    return TapMap(offsets, taps.weight[order], taps.stride, taps.slack, taps.in_size, taps.out_size)


def _per_axis(value: Operand, rank: int) -> tuple[int, ...]:
    items = value if isinstance(value, tuple) else (value,)
    return tuple(items) * rank if len(items) == 1 else tuple(items)


def _padding(
    padding: Operand, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if padding == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = _per_axis(padding, len(kernel))
    return both, both


def _linear(graph: Graph, node: Node) -> AffineNode | None:
    weight, bias = graph.constant(node.operand("weight")), graph.constant(node.operand("bias"))
    if weight is None or (node.operand("bias") is not None and bias is None) or node.type.rank < 2:
        return None

    def build(_: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        return TapMap(((),), weight.double()[None, None], (), (), (), ()), _wide(bias)

    return _one(node.operand("input"), Layout.LAST, build)


def _batch_norm(graph: Graph, node: Node) -> AffineNode | None:
    if node.operand("training"):
        return None
    mean, variance = _double(graph, node.operand("running_mean")), _double(graph, node.operand("running_var"))
    gamma, beta = (_double(graph, node.operand(k)) for k in ("weight", "bias"))
    absent = [k for k, t in (("weight", gamma), ("bias", beta)) if t is None and node.operand(k) is not None]
    if mean is None or variance is None or absent:
        return None
    scale = torch.rsqrt(variance + node.operand("eps"))
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    layout = layout_of(node.type, Layout.FIRST)
    return _one(node.operand("input"), layout, lambda size: (diagonal(scale, size), shift))


def _average_pool(graph: Graph, node: Node) -> AffineNode | None:
    kernel = node.operand("kernel_size")
    rank = len(kernel)
    stride = node.operand("stride") or kernel
    padding = _per_axis(node.operand("padding"), rank)
    partial = any(padding) and not node.operand("count_include_pad")
    if partial or node.operand("ceil_mode") or node.type.rank != rank + 2:
        return None
    taps = _indices(kernel)
    divisor = node.operand("divisor_override") or len(taps)
    offsets = tuple(tuple(a - p for a, p in zip(i, padding, strict=True)) for i in taps)
    slack = tuple(2 * p - k for p, k in zip(padding, kernel, strict=True))

    def build(size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        count = channels(node.type, Layout.FIRST)
        weight = torch.full((len(taps), count, 1, 1), 1.0 / divisor, dtype=torch.float64)
        return TapMap(offsets, weight, _per_axis(stride, rank), slack, size, node.type.shape[2:]), None

    return _one(node.operand("self"), Layout.FIRST, build)


def _pad(graph: Graph, node: Node) -> AffineNode | None:
    pad, value = node.operand("pad"), float(node.operand("value") or 0)
    rank = node.type.rank - 2
    if rank < 1 or len(pad) > 2 * rank:
        return None
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)][::-1]
    pairs = [(0, 0)] * (rank - len(pairs)) + pairs
    slack = tuple(left + right - 1 for left, right in pairs)

    def build(size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        count = channels(node.type, Layout.FIRST)
        weight = torch.ones(1, count, 1, 1, dtype=torch.float64)
        offset = tuple(-left for left, _ in pairs)
        taps = TapMap((offset,), weight, (1,) * rank, slack, size, node.type.shape[2:])
        return taps, _frame(taps, value)

    return _one(node.operand("self"), Layout.FIRST, build)


def _frame(taps: TapMap, value: float) -> Shift:
    """Return the shift of padding with `value`: `value` in the frame, zero inside."""
    if not value:
        return None
    full = torch.full((taps.channels_out,), value, dtype=torch.float64)
    return plus(full, push(taps, torch.ones_like(full)), -value)


def _slice(graph: Graph, node: Node) -> AffineNode | None:
    axis = node.operand("dim") % node.type.rank - 2
    rank = node.type.rank - 2
    size, count = graph.type_of(node.operand("self")).shape[axis + 2 :][:1], node.type.shape[axis + 2 :][:1]
    start, step = node.operand("start") or 0, node.operand("step")
    if axis < 0 or not all(isinstance(v, int) for v in (*size, *count, start)):
        return None
    length, steps = size[0], count[0]
    assert isinstance(length, int)
    assert isinstance(steps, int)
    begin = start + length if start < 0 else min(start, length)

    def per(value: int, other: int) -> tuple[int, ...]:
        return tuple(value if i == axis else other for i in range(rank))

    def build(sizes: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        weight = torch.ones(1, channels(node.type, Layout.FIRST), 1, 1, dtype=torch.float64)
        slack = per((steps - 1) * step - length, -1)
        return TapMap((per(begin, 0),), weight, per(step, 1), slack, sizes, node.type.shape[2:]), None

    return _one(node.operand("self"), Layout.FIRST, build)


def _scaling(reciprocal: bool) -> Callable[[Graph, Node], AffineNode | None]:
    def rule(graph: Graph, node: Node) -> AffineNode | None:
        data, other = _split(graph, node, reciprocal)
        found = _per_channel(graph, node, data, other)
        if found is None:
            return None
        layout, factors = found
        factors = factors.reciprocal() if reciprocal else factors
        return _diagonal_node(node, data, layout, lambda count: (factors.expand(count), None))

    return rule


def _summing(sign: float) -> Callable[[Graph, Node], AffineNode | None]:
    def rule(graph: Graph, node: Node) -> AffineNode | None:
        left, right, alpha = node.operand("self"), node.operand("other"), float(node.operand("alpha", 1))
        if _is_data(graph, left) and _is_data(graph, right):
            same = graph.type_of(left) == graph.type_of(right) == node.type
            terms = (Term(left), Term(right, sign * alpha))
            return AffineNode(terms, None) if same else None
        data, other = (left, right) if _is_data(graph, left) else (right, left)
        scale, factor = (1.0, sign * alpha) if data is left else (sign * alpha, 1.0)
        found = _per_channel(graph, node, data, other)
        if found is None:
            return None
        layout, addend = found
        ones = torch.full((1,), scale, dtype=torch.float64)
        return _diagonal_node(node, data, layout, lambda n: (ones.expand(n), (addend * factor).expand(n)))

    return rule


def _negation(graph: Graph, node: Node) -> AffineNode | None:
    minus = torch.full((1,), -1.0, dtype=torch.float64)
    return _diagonal_node(node, node.operand("self"), None, lambda n: (minus.expand(n), None))


def _diagonal_node(
    node: Node, data: Value, layout: Layout | None, parts: Callable[[int], tuple[torch.Tensor, Shift]]
) -> AffineNode:
    def build(size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        count = channels(node.type, Layout.FIRST if size else layout_of(node.type, layout or Layout.LAST))
        scale, shift = parts(count)
        return diagonal(scale, size), shift

    return AffineNode((Term(data),), layout, build)


def _is_data(graph: Graph, operand: Operand) -> bool:
    return isinstance(operand, Value) and graph.producer(operand).kind is not Kind.CONSTANT


def _split(graph: Graph, node: Node, reciprocal: bool) -> tuple[Operand, Operand]:
    left, right = node.operand("self"), node.operand("other")
    return (left, right) if reciprocal or _is_data(graph, left) else (right, left)


def _per_channel(
    graph: Graph, node: Node, data: Operand, other: Operand
) -> tuple[Layout | None, torch.Tensor] | None:
    """Return (layout, per-channel values, [1] or [C]) of the constant side, or None."""
    if not _is_data(graph, data) or graph.type_of(data).shape != node.type.shape:
        return None
    if isinstance(other, int | float):
        return None, torch.tensor([float(other)], dtype=torch.float64)
    tensor = _double(graph, other)
    if tensor is None:
        return None
    if tensor.numel() == 1:
        return None, tensor.reshape(1)
    rank = node.type.rank
    shape = (*(1,) * (rank - tensor.dim()), *tensor.shape)
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    if wide == [1] and rank > 2:
        return Layout.FIRST, tensor.flatten()
    return (Layout.LAST, tensor.flatten()) if wide == [rank - 1] else None


Rule = Callable[[Graph, Node], AffineNode | None]

_RULES: dict[str, Rule] = {
    **{f"aten.conv{n}d.{variant}": _convolution for n in (1, 2, 3) for variant in ("default", "padding")},
    "aten.convolution.default": _convolution,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    **{f"aten.avg_pool{n}d.default": _average_pool for n in (1, 2, 3)},
    "aten.constant_pad_nd.default": _pad,
    "aten.slice.Tensor": _slice,
    "aten.mul.Tensor": _scaling(False),
    "aten.mul.Scalar": _scaling(False),
    "aten.div.Tensor": _scaling(True),
    "aten.div.Scalar": _scaling(True),
    "aten.add.Tensor": _summing(1.0),
    "aten.add.Scalar": _summing(1.0),
    "aten.sub.Tensor": _summing(-1.0),
    "aten.sub.Scalar": _summing(-1.0),
    "aten.neg.default": _negation,
}
