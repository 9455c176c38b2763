"""How operations without weights carry channels: element by element, moved, joined, taken apart.

An element-wise operation ties what meets in it. A concatenation lays axes end to end, so that what reads it
sees each part at its offset; a split takes them apart again. A reshape spreads labels over its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from compiler.compress.channel_axes import Atoms, Axis, compact, reshape_blocks
from compiler.compress.channel_rules import Rule
from compiler.compress.channel_walk import Walk, Whole, short
from compiler.ir.graph import Node, Operand, Value
from compiler.ir.schema import overload

# What computes each element from those at its own place, although torch does not tag it so.
_POINTWISE = frozenset(
    f"aten.{name}"
    for name in (
        *("_to_copy.default", "to.dtype", "clone.default", "contiguous.default", "alias.default"),
        *("dropout.default", "hardswish.default", "detach.default", "lift_fresh_copy.default"),
    )
)


def pointwise(op: str) -> bool:
    """Tell whether an operation is computed element by element."""
    return op in _POINTWISE or torch.Tag.pointwise in overload(op).tags


def elementwise(walk: Walk, node: Node) -> None:
    """Tie what meets at each place; parts that are broadcast reach only as far as they go."""
    values = [value for _, value in node.values()]
    walk.axes[node.value] = meeting(walk, node, values, ())


def meeting(walk: Walk, node: Node, values: Sequence[Value], without: Sequence[int]) -> tuple[Axis, ...]:
    """Return the axes of a result whose values meet at every dimension but those in `without`."""
    rank = node.type.rank
    placed: list[list[Axis]] = []
    for value in values:
        offset = rank - walk.graph.type_of(value).rank
        own = [Axis(tuple(d + offset for d in a.dims), a.atoms) for a in walk.of(value)]
        placed.append([a for a in own if not set(a.dims) & set(without)])
    result = []
    for dims in _clusters([a.dims for axes in placed for a in axes]):
        here = [_at(walk, [a for a in axes if set(a.dims) <= set(dims)], dims) for axes in placed]
        result.append(Axis(dims, walk.meet(values, dims, here, node)))
    return tuple(result)


def _at(walk: Walk, axes: list[Axis], dims: tuple[int, ...]) -> Axis | None:
    """Return one axis for those that one value has inside some dimensions: their atoms go together."""
    for other in axes[1:]:
        walk.tie(axes[0].over(dims), other.over(dims))
    return axes[0] if axes else None


def _clusters(found: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the unions of those tuples that share a dimension."""
    clusters: list[set[int]] = []
    for dims in found:
        touching = [c for c in clusters if c & set(dims)]
        clusters = [c for c in clusters if not c & set(dims)] + [set(dims).union(*touching)]
    return [tuple(sorted(c)) for c in sorted(clusters, key=min)]


def reshape(walk: Walk, node: Node) -> None:
    """Spread the labels of each block of dimensions over it, and read them in the new shape."""
    source = node.operand("self")
    before, after = walk.graph.type_of(source).shape, node.type.shape
    blocks = list(reshape_blocks(before, after))
    result = []
    for axis in walk.of(source):
        touched = [b for b in blocks if set(b[0]) & set(axis.dims)]
        own, new = (tuple(d for block in touched for d in block[side]) for side in (0, 1))
        alone = all(a is axis or not set(a.dims) & set(own) for a in walk.of(source))
        if alone and len(own) == len(new) == 1:
            result.append(axis.moved(new))
        elif alone and all(isinstance(n, int) for n in (*(before[d] for d in own), *(after[d] for d in new))):
            shape, wanted = ([int(str(n[d])) for d in dims] for n, dims in ((before, own), (after, new)))
            read = compact(new, np.broadcast_to(axis.over(own), shape).reshape(wanted))
            result += [] if read is None else [read]
        else:
            walk.fix(axis, "the reshape mixes it with another dimension", node)
    walk.axes[node.value] = tuple(result)


def permute(walk: Walk, node: Node) -> None:
    """Dimensions in another order."""
    source = node.operand("self")
    rank = walk.graph.type_of(source).rank
    order = list(range(rank))
    if node.op.startswith("aten.permute"):
        order = [d % rank for d in node.operand("dims")]
    elif rank:
        one, other = (node.operand(k) % rank for k in ("dim0", "dim1"))
        order[one], order[other] = order[other], order[one]
    walk.axes[node.value] = tuple(a.moved([order.index(d) for d in a.dims]) for a in walk.of(source))


def unsqueeze(walk: Walk, node: Node) -> None:
    """A new dimension of size 1."""
    dim = node.operand("dim") % node.type.rank
    walk.axes[node.value] = tuple(
        a.moved([d + (d >= dim) for d in a.dims]) for a in walk.of(node.operand("self"))
    )


def squeeze(walk: Walk, node: Node) -> None:
    """Dimensions of size 1 gone, which no axis covers."""
    source = node.operand("self")
    shape, dims = walk.graph.type_of(source).shape, node.operand("dim")
    chosen = range(len(shape)) if dims is None else dims if isinstance(dims, tuple) else (dims,)
    gone = {d % len(shape) for d in chosen if shape[d] == 1}
    walk.axes[node.value] = _without(walk.of(source), gone)


def _without(axes: Sequence[Axis], gone: set[int]) -> tuple[Axis, ...]:
    """Return axes of a value that lost dimensions none of them covers."""
    return tuple(a.moved([d - sum(g < d for g in gone) for d in a.dims]) for a in axes)


def expand(walk: Walk, node: Node) -> None:
    """A dimension of size 1 repeated, which no axis covers; a weight repeated is a weight still."""
    source = node.operand("self")
    for dim in range(walk.graph.type_of(source).rank):
        walk.stored(source, (dim,), node)
    offset = node.type.rank - walk.graph.type_of(source).rank
    walk.axes[node.value] = tuple(a.moved([d + offset for d in a.dims]) for a in walk.of(source))


def cat(walk: Walk, node: Node) -> None:
    """Axes end to end along the joined dimension; at others what is joined goes together."""
    parts = list(node.operand("tensors"))
    dim = node.operand("dim") % node.type.rank
    joined = [[a for a in walk.of(part) if dim in a.dims] for part in parts]
    dims = {a.dims for axes in joined for a in axes}
    if len(dims) > 1:
        for axis in (a for axes in joined for a in axes):
            walk.fix(axis, "what is joined is cut along other dimensions", node)
        dims = set()
    reached = dims.pop() if dims else (dim,)
    result = meeting(walk, node, parts, reached)
    if any(joined):
        arrays = [
            _part(walk, node, p, a[0] if a else None, reached) for p, a in zip(parts, joined, strict=True)
        ]
        result = (*result, Axis(reached, np.concatenate(arrays, axis=reached.index(dim))))
    walk.axes[node.value] = result


def _part(walk: Walk, node: Node, value: Value, axis: Axis | None, dims: tuple[int, ...]) -> Atoms:
    """Return the atoms of one part of a concatenation; those of one that cannot be cut stay."""
    if axis is not None:
        walk.understood.add((value.node, node.name, axis.dims))
        return axis.atoms
    shape = walk.graph.type_of(value).shape
    made = walk.stored(value, dims, node)
    if made is not None and made.dims == dims:
        return made.atoms
    whole = Axis(dims, walk.fresh(*(int(str(shape[d])) for d in dims)))
    walk.fix(whole, f"it stands beside {value.node!r}, which cannot be cut", node)
    return whole.atoms


def split(walk: Walk, node: Node) -> None:
    """Axes taken apart along a dimension."""
    source = node.operand("self")
    dim = node.operand("dim") % node.types[0].rank
    start = 0
    for index, type_ in enumerate(node.types):
        size = type_.shape[dim]
        if not isinstance(size, int):
            return
        walk.axes[Value(node.name, index)] = tuple(
            _ranged(a, dim, start, start + size) for a in walk.of(source)
        )
        start += size


def _ranged(axis: Axis, dim: int, start: int, stop: int) -> Axis:
    if dim not in axis.dims:
        return axis
    return Axis(axis.dims, np.take(axis.atoms, np.arange(start, stop), axis=axis.dims.index(dim)))


def slice_(walk: Walk, node: Node) -> None:
    """A range of an axis; every other place of it would not stay a range when some are cut."""
    source = node.operand("self")
    dim, step = node.operand("dim") % node.type.rank, node.operand("step")
    axes = walk.of(source)
    if not any(dim in a.dims for a in axes):
        walk.axes[node.value] = axes
        return
    size, length = walk.graph.type_of(source).shape[dim], node.type.shape[dim]
    start = node.operand("start") or 0
    if step != 1 or not all(isinstance(n, int) for n in (size, length, start)):
        _lost(walk, node, [a for a in axes if dim in a.dims])
        return
    first = max(start + size, 0) if start < 0 else min(start, size)
    walk.axes[node.value] = tuple(_ranged(a, dim, first, first + length) for a in axes)


def select(walk: Walk, node: Node) -> None:
    """One place of a dimension, or each of them: that dimension itself may not be cut."""
    source = node.operand("self")
    dim = node.operand("dim") % walk.graph.type_of(source).rank
    for axis in walk.of(source):
        if dim in axis.dims:
            reason = f"{short(node)} takes places of it by number"
            walk.whole.append(Whole(axis.atoms, axis.dims.index(dim), reason, node.name))
    for index in range(len(node.types)):
        place = node.operand("index") if node.op.startswith("aten.select") else index
        walk.axes[Value(node.name, index)] = tuple(
            kept for a in walk.of(source) if (kept := _taken(a, dim, place)) is not None
        )


def _taken(axis: Axis, dim: int, place: Operand) -> Axis | None:
    atoms, dims = axis.atoms, axis.dims
    if dim in dims:
        atoms = np.take(atoms, place, axis=dims.index(dim))
        dims = tuple(d for d in dims if d != dim)
    return Axis(tuple(d - (d > dim) for d in dims), atoms) if dims else None


def reduction(walk: Walk, node: Node) -> None:
    """A mean, sum or extreme over other dimensions; over channels it would change with their number."""
    source = node.operand("self")
    rank, dims = walk.graph.type_of(source).rank, node.operand("dim")
    gone = {d % rank for d in ((dims,) if isinstance(dims, int) else dims or range(rank))}
    _lost(walk, node, [a for a in walk.of(source) if set(a.dims) & gone])
    left = [a for a in walk.of(source) if not set(a.dims) & gone]
    walk.axes[node.value] = tuple(left) if node.operand("keepdim") else _without(left, gone)


def along(walk: Walk, node: Node) -> None:
    """A softmax, a shift or the like along some dimensions, which stay whole."""
    source = node.operand("self")
    rank = walk.graph.type_of(source).rank
    dims = node.operand("dim", node.operand("dims"))
    used = {d % rank for d in ((dims,) if isinstance(dims, int) else dims or range(rank))}
    _lost(walk, node, [a for a in walk.of(source) if set(a.dims) & used])
    walk.axes[node.value] = tuple(a for a in walk.of(source) if not set(a.dims) & used)


def padding(walk: Walk, node: Node) -> None:
    """Filled in at the ends of the last dimensions."""
    source = node.operand("self")
    rank = walk.graph.type_of(source).rank
    pads = node.operand("pad")
    used = {rank - 1 - i // 2 for i, n in enumerate(pads) if n != 0}
    _lost(walk, node, [a for a in walk.of(source) if set(a.dims) & used])
    walk.axes[node.value] = tuple(a for a in walk.of(source) if not set(a.dims) & used)


def glu(walk: Walk, node: Node) -> None:
    """Two halves, one the gate of the other."""
    source = node.operand("self")
    dim = node.operand("dim") % node.type.rank
    length = node.type.shape[dim]
    result = []
    for axis in walk.of(source):
        if dim not in axis.dims or not isinstance(length, int):
            result.append(axis)
            continue
        one, other = (_ranged(axis, dim, n, n + length) for n in (0, length))
        walk.tie(one.atoms, other.atoms)
        result.append(one)
    walk.axes[node.value] = tuple(result)


def unknown(walk: Walk, node: Node) -> None:
    """An operation that is not followed: whatever it reads stays as it is."""
    _lost(walk, node, [axis for _, value in node.values() for axis in walk.of(value)])


def _lost(walk: Walk, node: Node, axes: Sequence[Axis]) -> None:
    for axis in axes:
        walk.fix(axis, f"{short(node)} needs all of it", node)


def _each(rule: Rule, *names: str) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names}


MOVES: dict[str, Rule] = {
    **_each(reshape, "reshape.default", "view.default", "_unsafe_view.default", "flatten.using_ints"),
    **_each(permute, "permute.default", "transpose.int"),
    **_each(unsqueeze, "unsqueeze.default"),
    **_each(squeeze, "squeeze.dim", "squeeze.dims", "squeeze.default"),
    **_each(expand, "expand.default"),
    **_each(cat, "cat.default"),
    **_each(split, "split.Tensor", "split_with_sizes.default", "chunk.default"),
    **_each(slice_, "slice.Tensor"),
    **_each(select, "select.int", "unbind.int"),
    **_each(reduction, "mean.dim", "sum.dim_IntList", "amax.default", "amin.default"),
    **_each(reduction, "var.correction", "std.correction", "linalg_vector_norm.default"),
    **_each(along, "softmax.int", "_softmax.default", "log_softmax.int", "roll.default", "flip.default"),
    **_each(padding, "constant_pad_nd.default", "pad.default"),
    **_each(glu, "glu.default"),
}
