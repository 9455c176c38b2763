"""What each operation with weights, or over channels, does to channels: one rule an operation.

A convolution or a linear layer makes channels of its own from a sum over those it reads, so that what
reads it can be cut apart from what it reads. A grouped one loses the same channels in each group, a
depthwise one those it is given. Norms and poolings hand channels on. Attention loses whole heads: queries,
keys and values of one head go together, with one key head where several queries share it
(GQA, Ainslie et al., arXiv 2305.13245).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from compiler.compress.channel_axes import Atoms, Axis
from compiler.compress.channel_walk import Reader, Walk, short
from compiler.ir.graph import Node, Value

Rule: TypeAlias = Callable[[Walk, Node], None]
_DIGIT = re.compile(r"(\d)d")


def spatial(node: Node) -> int:
    """Return the number of an operation's spatial dimensions, as its name says it."""
    found = _DIGIT.search(node.op)
    return int(found.group(1)) if found else 0


def channels(walk: Walk, node: Node, value: Value) -> Axis | None:
    """Return the axis of an image's channels; its other dimensions may not be cut."""
    place = walk.graph.type_of(value).rank - spatial(node) - 1
    for axis in walk.of(value):
        if set(axis.dims) & set(range(place + 1, place + 1 + spatial(node))):
            walk.fix(axis, f"{short(node)} slides along it", node)
    return walk.at(value, place, node)


def convolution(walk: Walk, node: Node) -> None:
    """A convolution: dense, in groups, or depthwise, which hands channels on."""
    source, weight, groups = node.operand("input"), node.operand("weight"), node.operand("groups")
    entry, place = channels(walk, node, source), node.type.rank - spatial(node) - 1
    outer, bias = walk.stored(weight, (0,), node), _bias(walk, node)
    if not walk.constant(weight) or (bias is None) != (node.operand("bias") is None or outer is None):
        walk.fix(entry, "the weight or bias of the convolution is computed", node)
        walk.fix(outer, "the bias of the convolution is computed", node)
        return
    if outer is not None and bias is not None:
        walk.tie(outer.atoms, bias.atoms)
    if groups > 1 and walk.graph.type_of(weight).shape[1] == 1:
        _depthwise(walk, node, entry, outer)
    else:
        inner = walk.stored(weight, (1,), node)
        _sum_over(walk, node, entry, inner, Reader(node.name, 1, groups))
        if outer is not None:
            per_group = outer.atoms.reshape(groups, -1)
            walk.tie(per_group[:1], per_group)
            walk.sources.append((node.name, outer.atoms))
    if outer is not None:
        walk.axes[node.value] = (outer.moved((place,)),)


def _depthwise(walk: Walk, node: Node, entry: Axis | None, outer: Axis | None) -> None:
    assert outer is not None
    if entry is None:
        walk.fix(outer, "a depthwise convolution reads what cannot be cut", node)
    else:
        walk.tie(entry.atoms.reshape(-1, 1), outer.atoms.reshape(len(entry.atoms), -1))


def _sum_over(walk: Walk, node: Node, entry: Axis | None, inner: Axis | None, reader: Reader) -> None:
    """Tie what a layer reads to the columns of its weight; in groups, each group alike."""
    if entry is None or inner is None:
        walk.fix(inner, f"{short(node)} reads what cannot be cut", node)
        walk.fix(entry, f"nothing would be left for {short(node)} to read", node)
        return
    walk.tie(entry.atoms.reshape(reader.groups, -1), inner.atoms.reshape(1, -1))
    walk.readers.append((reader, entry.atoms.ravel()))


def _bias(walk: Walk, node: Node) -> Axis | None:
    return walk.stored(node.operand("bias"), (0,), node)


def transposed(walk: Walk, node: Node) -> None:
    """A transposed convolution, whose weight has the channels it reads first."""
    source, weight, groups = node.operand("input"), node.operand("weight"), node.operand("groups")
    entry, place = channels(walk, node, source), node.type.rank - spatial(node) - 1
    inner, bias = walk.stored(weight, (0,), node), _bias(walk, node)
    outer = inner if groups > 1 else walk.stored(weight, (1,), node)
    plain = groups == 1 or walk.graph.type_of(weight).shape[1] == 1
    if not walk.constant(weight) or not plain or (bias is None) != (node.operand("bias") is None):
        for axis in (entry, inner, outer, bias):
            walk.fix(axis, "a transposed convolution in groups, or with computed weights", node)
        return
    if groups > 1:
        _depthwise(walk, node, entry, inner)
    else:
        _sum_over(walk, node, entry, inner, Reader(node.name, 0))
    if outer is not None:
        if bias is not None:
            walk.tie(outer.atoms, bias.atoms)
        if groups == 1:
            walk.sources.append((node.name, outer.atoms))
        walk.axes[node.value] = (outer.moved((place,)),)


def linear(walk: Walk, node: Node) -> None:
    """A linear layer over the last dimension; other dimensions pass."""
    source, weight = node.operand("input"), node.operand("weight")
    last = walk.graph.type_of(source).rank - 1
    entry = walk.at(source, last, node)
    outer, inner, bias = walk.stored(weight, (0,), node), walk.stored(weight, (1,), node), _bias(walk, node)
    passed = tuple(a for a in walk.of(source) if last not in a.dims)
    if not walk.constant(weight) or (bias is None) != (node.operand("bias") is None or outer is None):
        walk.fix(entry, "the weight or bias of the linear layer is computed", node)
        walk.fix(outer, "the bias of the linear layer is computed", node)
    else:
        _sum_over(walk, node, entry, inner, Reader(node.name, 1))
        if outer is not None:
            if bias is not None:
                walk.tie(outer.atoms, bias.atoms)
            walk.sources.append((node.name, outer.atoms))
            passed = (*passed, outer.moved((last,)))
    walk.axes[node.value] = passed


def embedding(walk: Walk, node: Node) -> None:
    """Rows looked up in a table, whose columns are channels."""
    outer, rows = (walk.stored(node.operand("weight"), (d,), node) for d in (1, 0))
    walk.fix(rows, "rows are looked up by number", node)
    if outer is not None:
        walk.sources.append((node.name, outer.atoms))
        walk.axes[node.value] = (outer.moved((node.type.rank - 1,)),)


def batch_norm(walk: Walk, node: Node) -> None:
    """One scale and shift a channel."""
    _parameters(walk, node, "input", 1, ("weight", "bias", "running_mean", "running_var"))


def prelu(walk: Walk, node: Node) -> None:
    """One slope a channel, or one for all."""
    _parameters(walk, node, "self", 1, ("weight",))


def _parameters(walk: Walk, node: Node, source: str, dim: int, names: tuple[str, ...]) -> None:
    """Tie the parameters of each channel to it, and hand all axes on."""
    value = node.operand(source)
    axis = walk.at(value, dim, node)
    for name in names:
        operand = node.operand(name)
        own = walk.stored(operand, (0,), node)
        if axis is None:
            walk.fix(own, f"{short(node)} reads what cannot be cut", node)
        elif own is not None:
            walk.tie(axis.atoms, own.atoms)
        elif operand is not None and not walk.constant(operand):
            walk.fix(axis, f"the {name} of {short(node)} is computed", node)
    walk.axes[node.value] = walk.of(value)


def row_norm(walk: Walk, node: Node) -> None:
    """LayerNorm or RMSNorm over the last dimension: what is left is normalised by what is left."""
    value = node.operand("input")
    rank, normalised = walk.graph.type_of(value).rank, len(node.operand("normalized_shape"))
    if normalised == 1:
        _parameters(walk, node, "input", rank - 1, ("weight", "bias"))
        return
    for axis in walk.of(value):
        if max(axis.dims) >= rank - normalised:
            walk.fix(axis, f"{short(node)} normalises several dimensions at once", node)
    walk.axes[node.value] = walk.of(value)


def group_norm(walk: Walk, node: Node) -> None:
    """Each group loses the same channels, and is normalised by what is left; alone, a channel just goes."""
    axis, groups = walk.at(node.operand("input"), 1, node), node.operand("num_groups")
    if axis is not None and groups < len(axis.atoms):
        walk.tie(axis.atoms.reshape(groups, -1)[:1], axis.atoms.reshape(groups, -1))
    _parameters(walk, node, "input", 1, ("weight", "bias"))


def pooling(walk: Walk, node: Node) -> None:
    """Each channel by itself, along the spatial dimensions."""
    source = node.operand("input") or node.operand("self")
    channels(walk, node, source)
    place = walk.graph.type_of(source).rank - spatial(node)
    for index in range(len(node.types)):
        walk.axes[Value(node.name, index)] = tuple(a for a in walk.of(source) if max(a.dims) < place)


def attention(walk: Walk, node: Node) -> None:
    """Whole heads where there is a dimension of heads; where there is none, values of the only one."""
    rank = node.type.rank
    operands = [node.operand(name) for name in ("query", "key", "value")]
    for value in operands:
        for axis in walk.of(value):
            if not set(axis.dims) <= {rank - 3, rank - 1}:
                walk.fix(axis, "attention goes along it", node)
    if any(rank - 3 in axis.dims for value in operands for axis in walk.of(value)):
        _heads(walk, node, operands)
    else:
        _one_head(walk, node, operands)


def _heads(walk: Walk, node: Node, operands: list[Value]) -> None:
    heads = [_collapsed(walk, node, value) for value in operands]
    query, key, value = heads
    if query is None or any(h is None and _size(walk, v) > 1 for h, v in zip(heads, operands, strict=True)):
        for array in heads:
            if array is not None:
                walk.fix(Axis((0,), array), "a part of attention cannot be cut", node)
        return
    for other in (key, value):
        if other is not None:
            walk.tie(query.reshape(len(other), -1), other.reshape(-1, 1))
    place = node.type.rank - 3
    mask = node.operand("attn_mask")
    if mask is not None:
        offset = node.type.rank - walk.graph.type_of(mask).rank
        for axis in walk.of(mask):
            if axis.dims != (place - offset,):
                walk.fix(axis, "attention goes along it", node)
        own = _in_result(walk, node, mask, place)
        walk.meet([operands[0], mask], (place,), [Axis((place,), query), own], node)
    walk.attention.append(query)
    walk.axes[node.value] = (Axis((place,), query),)


def _in_result(walk: Walk, node: Node, value: Value, place: int) -> Axis | None:
    """Return the axis that a value has at a dimension of the result, counted from the end."""
    offset = node.type.rank - walk.graph.type_of(value).rank
    axis = walk.at(value, place - offset, node)
    return None if axis is None else axis.moved((place,))


def _collapsed(walk: Walk, node: Node, value: Value) -> Atoms | None:
    """Return the atom of each head, all of a head's tied; one head that all share is left whole."""
    rank = walk.graph.type_of(value).rank
    dims = (rank - 3, rank - 1)
    found = [a for a in walk.of(value) if set(a.dims) & set(dims)]
    if len(found) != 1 or rank - 3 not in found[0].dims:
        for axis in found:
            walk.fix(axis, "one head is read by several", node)
        return None
    array = found[0].over(dims)
    walk.tie(array[:, :1], array)
    return np.ascontiguousarray(array[:, 0])


def _size(walk: Walk, value: Value) -> int:
    size = walk.graph.type_of(value).shape[-3]
    return size if isinstance(size, int) else 0


def _one_head(walk: Walk, node: Node, operands: list[Value]) -> None:
    last = node.type.rank - 1
    for value in operands[:2]:
        walk.fix(walk.at(value, last, node), "queries and keys are compared over it", node)
    passed = walk.at(operands[2], last, node)
    if passed is not None:
        walk.axes[node.value] = (passed,)


def product(walk: Walk, node: Node) -> None:
    """A product of two computed matrices: rows and columns pass, heads in front of them go whole."""
    left, right = _sides(node)
    rank = node.type.rank
    offsets = [rank - walk.graph.type_of(v).rank for v in (left, right)]
    if (
        walk.constant(left)
        or walk.constant(right)
        or min(walk.graph.type_of(v).rank for v in (left, right)) < 2
    ):
        for axis in (*walk.of(left), *walk.of(right)):
            walk.fix(axis, "a matrix product with a stored matrix or a vector is not followed", node)
        return
    batch = [_batch_axes(walk, v, offset) for v, offset in zip((left, right), offsets, strict=True)]
    dims = sorted({d for axis in batch if axis is not None for d in axis.dims})
    result: list[Axis] = []
    if dims:
        result.append(Axis(tuple(dims), walk.meet([left, right], dims, batch, node)))
    plain = [
        [a for a in walk.of(v) if min(a.dims) >= rank - o - 2]
        for v, o in zip((left, right), offsets, strict=True)
    ]
    for summed in (_only(plain[0], rank - offsets[0] - 1), _only(plain[1], rank - offsets[1] - 2)):
        walk.fix(summed, "a product of two computed matrices sums over it", node)
    rows, columns = _only(plain[0], rank - offsets[0] - 2), _only(plain[1], rank - offsets[1] - 1)
    result += [a.moved((rank - 2 + i,)) for i, a in enumerate((rows, columns)) if a is not None]
    walk.axes[node.value] = tuple(result)


def _sides(node: Node) -> tuple[Value, Value]:
    return node.operand("self"), node.operand("other", node.operand("mat2"))


def _only(axes: list[Axis], dim: int) -> Axis | None:
    return next((a for a in axes if a.dims == (dim,)), None)


def _batch_axes(walk: Walk, value: Value, offset: int) -> Axis | None:
    """Return the axis in front of the matrices, all atoms of one place tied, in the result's dimensions."""
    matrix = walk.graph.type_of(value).rank - 2
    found = [a for a in walk.of(value) if min(a.dims) < matrix]
    if not found:
        return None
    axis, inside = found[0], [i for i, d in enumerate(found[0].dims) if d >= matrix]
    front = axis.atoms[tuple(slice(1) if i in inside else slice(None) for i in range(axis.atoms.ndim))]
    walk.tie(front, axis.atoms)
    dims = tuple(d for d in axis.dims if d < matrix)
    for other in found[1:]:
        walk.tie(front.ravel()[:1], other.atoms.ravel())  # more than heads: none of it can be cut apart
    return Axis(
        tuple(d + offset for d in dims), front.reshape([axis.atoms.shape[axis.dims.index(d)] for d in dims])
    )


def _each(names: tuple[str, ...], rule: Rule) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names}


RULES: dict[str, Rule] = {
    **_each(("conv1d.default", "conv2d.default", "conv3d.default"), convolution),
    **_each(("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"), transposed),
    **_each(("linear.default",), linear),
    **_each(("embedding.default",), embedding),
    **_each(("batch_norm.default",), batch_norm),
    **_each(("prelu.default",), prelu),
    **_each(("layer_norm.default", "rms_norm.default"), row_norm),
    **_each(("group_norm.default",), group_norm),
    **_each(("scaled_dot_product_attention.default",), attention),
    **_each(("matmul.default", "bmm.default", "mm.default"), product),
    **_each(
        (
            *(
                "max_pool1d.default",
                "max_pool2d.default",
                "max_pool3d.default",
                "max_pool2d_with_indices.default",
            ),
            *("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default"),
            *("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default"),
            *("upsample_nearest2d.vec", "upsample_bilinear2d.vec", "upsample_bicubic2d.vec"),
            *("upsample_nearest2d.default", "upsample_bilinear2d.default", "upsample_bicubic2d.default"),
            *("reflection_pad2d.default", "replication_pad2d.default"),
        ),
        pooling,
    ),
}
