"""Operations that treat all channels alike and keep constants: they go in front of a matrix.

`P (W x + b) = W (P x) + b` where every row of `P` sums to one: a mean over positions, an adaptive
or partial average pool, an upsampling (`merges.md` 1.5, 1.6). In front of them stands a map at one
position only; a convolution does not commute. Filling positions with zeros commutes with a
matrix, and not with a shift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from compiler.ir.graph import Dim, Graph, Node, TensorType
from compiler.merge import tap_map
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form, Move, grid_of
from compiler.merge.moves import in_front
from compiler.merge.rules.spatial import adaptive_pool, average_pool
from compiler.merge.sizes import sizes


def _mean(graph: Graph, node: Node, _: int) -> AffineNode | None:
    source = node.operand("self")
    dims = node.operand("dim")
    if not is_data(graph, source) or not dims or node.operand("dtype") is not None:
        return None
    rank = graph.type_of(source).rank
    reduced = {d % rank for d in dims}
    return _commuting(graph, node, reduced, bool(node.operand("keepdim")))


def _pool(graph: Graph, node: Node, _: int) -> AffineNode | None:
    if not is_data(graph, node.operands[0][1]):
        return None
    return _commuting(graph, node, set(), True)


def _average_pool(graph: Graph, node: Node, index: int) -> AffineNode | None:
    """A pool over whole windows is a tap map or goes in front; one over partial windows goes in front."""
    mapped, padded = average_pool(graph, node, index), any(node.operand("padding"))
    if padded and node.operand("count_include_pad") and mapped is None:
        return None
    front = None if padded and node.operand("count_include_pad") else _pool(graph, node, index)
    if mapped is None or front is None:
        return mapped or front
    return replace(mapped, commuted=front.apply)


def _adaptive_pool(graph: Graph, node: Node, index: int) -> AffineNode | None:
    front, mapped = _pool(graph, node, index), adaptive_pool(graph, node, index)
    return front if mapped is None or front is None else replace(mapped, commuted=front.apply)


def filling(graph: Graph, node: Node, padded: set[int]) -> AffineNode | None:
    """Return padding with zeros on `padded` axes as an operation in front of a matrix."""
    if not is_data(graph, node.operand("self")):
        return None
    return _commuting(graph, node, padded, True, fills=True)


def _commuting(graph: Graph, node: Node, reduced: set[int], keep: bool, fills: bool = False) -> AffineNode:
    source = node.operands[0][1]

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        if not _on_base(form):
            form = in_front(graph, form)
        _check(form, reduced)
        if fills:
            form = _shift_in_front(form)
        dropped = 0 if keep else sum(d < form.axis for d in reduced)
        axis = form.axis - dropped
        type_ = _with_channels(node.type, axis, form.base.shape[form.base_axis])
        base = TensorType(type_.shape, type_.dtype)
        taps = tap_map.pointwise(form.taps.blocks, grid_of(type_.shape, axis))
        shape = sizes(graph, node.type)
        moves = (*form.moves, Move(node.name, base))
        count = math.prod(shape) // shape[axis]
        return replace(
            form,
            taps=taps,
            shape=shape,
            axis=axis,
            base=base,
            base_axis=axis,
            moves=moves,
            pending=(),
            positions=count,
        )

    return AffineNode((source,), apply)


def _shift_in_front(form: Form) -> Form:
    """Return `S x + t` as `S (x + t / S)`: zeros that are filled in see no shift; raises Refusal."""
    if form.shift is None or not form.real:  # whether the shift is zero shows only with weights
        return replace(form, shift=None)
    if not bool(form.shift.any()):
        return replace(form, shift=None)
    scale = form.taps.weight.reshape(-1)
    if not form.taps.diagonal or bool((scale == 0).any()):
        raise Refusal(
            "shift before zero fill: a bias or a normalisation's shift does not reach the positions that "
            "are filled with zeros, so it is no bias of the operation behind them"
        )
    layout = (form.base.shape, form.base_axis, form.base_axis)
    move = Move("", form.base, layout=layout, added=form.shift / scale)
    return replace(form, shift=None, moves=(*form.moves, move))


def _on_base(form: Form) -> bool:
    """Tell whether the value is laid out as the base is."""
    same = form.axis == form.base_axis and len(form.shape) == form.base.rank
    return same and all(
        not isinstance(d, int) or d == s or i == form.axis
        for i, (d, s) in enumerate(zip(form.base.shape, form.shape, strict=True))
    )


def _check(form: Form, reduced: set[int]) -> None:
    if form.arrangement is not None or form.axis in reduced:
        raise Refusal("its channels do not lie on an axis of their own", quiet=True)
    if not form.taps.pointwise or (form.shift is not None and form.shift.dim() > 1):
        raise Refusal("an average over positions commutes with operations at one position only", quiet=True)


def _with_channels(type_: TensorType, axis: int, channels: Dim) -> TensorType:
    shape = tuple(channels if i == axis else d for i, d in enumerate(type_.shape))
    return TensorType(shape, type_.dtype)


RULES: dict[str, Rule] = {
    **{f"aten.avg_pool{n}d.default": _average_pool for n in (1, 2, 3)},
    "aten.mean.dim": _mean,
    **{f"aten.adaptive_avg_pool{n}d.default": _adaptive_pool for n in (1, 2, 3)},
    **{f"aten.upsample_{k}.vec": _pool for k in ("nearest2d", "bilinear2d", "nearest1d", "linear1d")},
}
