"""Operations over a grid: convolutions, plain and transposed, and average pools (`merges.md` 1.6, 1.7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import torch

from compiler.ir.graph import Dim, Graph, Node, Operand, TensorType, Value
from compiler.merge import blocks, tap_map
from compiler.merge.affine_ops import AffineNode, Rule
from compiler.merge.attempt import Refusal
from compiler.merge.blocks import Blocks
from compiler.merge.form import Form, grid_of
from compiler.merge.moves import in_front
from compiler.merge.shift import Shift, plus, push
from compiler.merge.sizes import constant
from compiler.merge.tap_map import TapMap

Build = Callable[[Form, tuple[Dim, ...]], tuple[TapMap, Shift]]


def node_of(graph: Graph, node: Node, source: Value, build: Build) -> AffineNode:
    """Return a node that applies a tap map to a `[N, C, *grid]` value."""
    type_ = graph.type_of(source)

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0] if forms[0].arrangement is None else in_front(graph, forms[0])
        return mapped(on_grid(form, type_), build, node.type)

    return AffineNode((source,), apply)


def mapped(form: Form, build: Build, out: TensorType) -> Form:
    """Return the form behind a tap map over its grid."""
    taps, shift = build(form, form.taps.out_size)
    moved = push(taps, form.shift)
    composed = tap_map.compose(form.taps, taps)
    batch = form.shape[0]
    grid = tuple(_static(d, s) for d, s in zip(out.shape[2:], _guess(form, taps), strict=True))
    shape = (batch, taps.channels_out, *grid)
    return replace(
        form, taps=composed, shift=plus(moved, shift), shape=shape, positions=batch * math.prod(grid)
    )


def _static(dim: Dim, guess: int) -> int:
    return dim if isinstance(dim, int) else guess


def _guess(form: Form, taps: TapMap) -> list[int]:
    """Return the output sizes for the plain sizes of the form."""
    sizes = form.shape[2:]
    return [(h + w) // s + 1 for h, w, s in zip(sizes, taps.slack, taps.stride, strict=True)]


def on_grid(form: Form, type_: TensorType) -> Form:
    """Return the form of a `[N, C, *grid]` value over that grid; raises Refusal."""
    if form.arrangement is not None or form.axis != 1:
        raise Refusal(
            "its channels do not lie on the second axis, where this operation takes them", quiet=True
        )
    grid = grid_of(type_.shape, 1)
    if form.taps.out_size == grid:
        return form
    if not form.taps.pointwise or (form.shift is not None and form.shift.dim() > 1):
        raise Refusal("its positions lie on another grid than the operations before it made")
    taps = replace(
        tap_map.pointwise(form.taps.blocks, grid),
    )
    return replace(form, taps=taps)


def _convolution(graph: Graph, node: Node, _: int) -> AffineNode | None:
    weight, bias = constant(graph, node.operand("weight")), constant(graph, node.operand("bias"))
    source = node.operand("input")
    if weight is None or (node.operand("bias") is not None and bias is None) or not isinstance(source, Value):
        return None
    rank = weight.dim() - 2
    if node.type.rank != rank + 2:
        return None  # an unbatched convolution
    transposed = bool(node.operand("transposed")) or "transpose" in node.op
    make = _transposed if transposed else _direct
    return node_of(graph, node, source, make(node, weight, bias, rank))


def _direct(node: Node, weight: torch.Tensor, bias: torch.Tensor | None, rank: int) -> Build:
    stride, dilation = (per_axis(node.operand(k), rank) for k in ("stride", "dilation"))
    groups, kernel = int(node.operand("groups")), tuple(weight.shape[2:])
    left, right = _padding(node.operand("padding"), kernel, dilation)
    offsets = tuple(
        tuple(d * a - p for d, a, p in zip(dilation, i, left, strict=True)) for i in indices(kernel)
    )
    slack = tuple(p + q - d * (k - 1) - 1 for p, q, d, k in zip(left, right, dilation, kernel, strict=True))

    def build(form: Form, size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        wide = form.weight(weight)
        matrices = wide.flatten(2).permute(2, 0, 1).reshape(len(offsets), groups, -1, weight.shape[1])
        taps = tap_map.plain(offsets, blocks.grouped(matrices), stride, slack, size, node.type.shape[2:])
        return taps, None if bias is None else form.weight(bias)

    return build


def _transposed(node: Node, weight: torch.Tensor, bias: torch.Tensor | None, rank: int) -> Build:
    """Return the map of a transposed convolution: taps `padding - dilation a` over stuffed zeros."""
    stride, dilation, pad = (per_axis(node.operand(k), rank) for k in ("stride", "dilation", "padding"))
    groups, kernel = int(node.operand("groups")), tuple(weight.shape[2:])
    offsets = tuple(
        tuple(p - d * a for p, d, a in zip(pad, dilation, i, strict=True)) for i in indices(kernel)
    )

    def build(form: Form, size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        parts = form.weight(weight).reshape(groups, -1, weight.shape[1], len(offsets))
        matrices = blocks.grouped(parts.permute(3, 0, 2, 1))
        still, out = (0,) * rank, node.type.shape[2:]
        taps = tap_map.plain(offsets, matrices, (1,) * rank, still, size, out)
        return replace(taps, up=stride), None if bias is None else form.weight(bias)

    return build


def indices(kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return every index of a kernel in row-major order."""
    return list(product(*map(range, kernel)))


def per_axis(value: Operand, rank: int) -> tuple[int, ...]:
    """Return one integer an axis."""
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
    both = per_axis(padding, len(kernel))
    return both, both


def average_pool(graph: Graph, node: Node, _: int) -> AffineNode | None:
    """Return an average over whole windows as a tap map, None where windows are cut at the border."""
    kernel = node.operand("kernel_size")
    rank = len(kernel)
    stride = per_axis(node.operand("stride") or kernel, rank)
    padding = per_axis(node.operand("padding"), rank)
    partial = any(padding) and not node.operand("count_include_pad")
    source = node.operand("self")
    if partial or node.type.rank != rank + 2:
        return None
    if node.operand("ceil_mode") and not _ends_whole(graph, node, kernel, stride, padding):
        return None
    return pool_node(graph, node, source, kernel, stride, padding, node.operand("divisor_override"))


def adaptive_pool(graph: Graph, node: Node, _: int) -> AffineNode | None:
    """Return an adaptive average over whole windows side by side as a tap map, else None.

    A mean over the whole image is none: it goes in front of a matrix, and as a kernel it would hold as many
    taps as the image has positions.
    """
    source = node.operand("self")
    rank = len(node.operand("output_size"))
    sizes, made = graph.type_of(source).shape[-rank:], node.type.shape[-rank:]
    if (
        node.type.rank != rank + 2
        or all(n == 1 for n in made)
        or not all(isinstance(d, int) for d in (*sizes, *made))
    ):
        return None
    kernel = tuple(int(h) // int(n) for h, n in zip(sizes, made, strict=True))  # type: ignore[arg-type]  # integers
    if any(k * int(n) != h for k, n, h in zip(kernel, made, sizes, strict=True)):  # type: ignore[arg-type]
        return None
    return pool_node(graph, node, source, kernel, kernel, (0,) * rank, None)


def _ends_whole(
    graph: Graph, node: Node, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> bool:
    """Tell whether rounding the output size up changes nothing, so that no window is cut off."""
    sizes = graph.type_of(node.operand("self")).shape[2:]
    axes = zip(sizes, node.type.shape[2:], kernel, stride, padding, strict=True)
    return all(isinstance(h, int) and (h + 2 * p - k) // s + 1 == n for h, n, k, s, p in axes)


def pool_node(
    graph: Graph,
    node: Node,
    source: Value,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    divisor: int | None,
) -> AffineNode:
    """Return the average over windows, `1 / divisor` at each tap."""
    windows = indices(kernel)
    offsets = tuple(tuple(a - p for a, p in zip(i, padding, strict=True)) for i in windows)
    slack = tuple(2 * p - k for p, k in zip(padding, kernel, strict=True))

    def build(form: Form, size: tuple[Dim, ...]) -> tuple[TapMap, Shift]:
        channels = form.taps.channels_out
        device = "cpu" if form.real else "meta"
        share = 1.0 / (divisor or len(windows))
        value = torch.full((len(windows), channels, 1, 1), share, dtype=torch.float64, device=device)
        matrices = blocks.grouped(value)
        return tap_map.plain(offsets, matrices, stride, slack, size, node.type.shape[2:]), None

    return node_of(graph, node, source, build)


def selection(form: Form, channels: int) -> Blocks:
    """Return the identity on channels, on the form's device."""
    return blocks.diagonal(form.weight(torch.ones(channels)))


RULES: dict[str, Rule] = {
    **{f"aten.conv{n}d.{variant}": _convolution for n in (1, 2, 3) for variant in ("default", "padding")},
    "aten.convolution.default": _convolution,
    "aten.conv_transpose1d.default": _convolution,
    "aten.conv_transpose2d.input": _convolution,
    "aten.conv_transpose3d.input": _convolution,
}
