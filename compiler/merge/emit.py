"""Emission: a form as programs of ATen operations, one for each way to write it.

Every program computes the same function; `regions` prices them. The layout is free: a matrix at
one position is a `linear` where the channels come last and a 1x1 convolution where they come second,
with the permutations and reshapes that this takes; a diagonal one is `mul` and `add` in place.
Maps over a grid are `convolution`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from compiler.cost.counts import FREE
from compiler.ir.dims import hint
from compiler.ir.graph import Dim, Graph, Operand, TensorType
from compiler.merge import blocks
from compiler.merge.attempt import Refusal
from compiler.merge.convolution import convolutions
from compiler.merge.form import Form, Move, grid_of
from compiler.merge.moves import behind, flat, in_front, selected
from compiler.merge.price import program_counts
from compiler.merge.step import ENTRY, Program, Ref, Step, Writer, arrange


def programs(graph: Graph, form: Form, exit_: TensorType, splits: bool = False) -> list[Program]:
    """Return the programs that compute a form; raises Refusal where there is none.

    With `splits`, sums of smaller convolutions are among them: only a measured price can tell.
    """
    if form.base_axis == 0:
        raise Refusal("its channels lie on the first axis", quiet=True)
    if form.axis == 0 and form.arrangement is None:
        form = replace(form, arrangement=form.arranged())
    if form.real and exit_.static and not bool(form.taps.weight.any()) and not _is_map(form):
        constant = _constant(form, exit_)
        if constant is not None:
            return [constant]
    if form.arrangement is not None:
        return _rearranged(graph, form, exit_, splits)
    if form.taps.pointwise:
        picked = selected(graph, form)
        ways = [] if picked is None else list(_pointwise(graph, picked, exit_))
        return [*ways, *_shortest(graph, form, list(_pointwise(graph, form, exit_)))]
    return [replace(p, whole=True) for p in _spatial(graph, form, exit_, splits)]


def _constant(form: Form, exit_: TensorType) -> Program | None:
    """Return what a map of zeros leaves: its shift, the same for every input."""
    zero = form.shift is None or not bool(form.shift.any())
    if form.arrangement is not None and not zero:
        return None
    value = torch.zeros(1, dtype=torch.float64) if zero or form.shift is None else form.shift
    if not zero:
        value = _along(value, form.axis, exit_.rank)
    writer = Writer(exit_.dtype)
    operands: dict[str, Operand] = {"self": value, "size": exit_.shape, "implicit": False}
    return writer.program(writer.op("aten.expand.default", exit_.shape, operands))


def _rearranged(graph: Graph, form: Form, exit_: TensorType, splits: bool) -> list[Program]:
    """Return the programs of a form whose value lies elsewhere than on a channel axis in order."""
    try:
        return programs(graph, in_front(graph, form), exit_, splits)
    except Refusal:
        flattened = flat(form)
    if flattened is not None and exit_.static and form.taps.pointwise:
        lead = flattened.shape[0]
        made = TensorType((lead, flattened.taps.channels_out), exit_.dtype)
        found = programs(graph, flattened, made, splits)
        reshape: dict[str, Operand] = {"shape": exit_.shape}
        return [_followed(p, "aten.reshape.default", reshape, exit_) for p in found]
    at, moves = behind(graph, form)
    assert form.origin is not None
    found = programs(graph, at, form.origin.type, splits)
    return [_with_moves(graph, p, moves) for p in found]


def _followed(program: Program, op: str, operands: dict[str, Operand], type_: TensorType) -> Program:
    """Return the program with one more operation that reads its result as `self`."""
    step = Step(op, {"self": program.result, **operands}, (type_,))
    return replace(program, steps=(*program.steps, step), result=Ref(len(program.steps)))


def _with_moves(graph: Graph, program: Program, moves: Sequence[Move]) -> Program:
    writer = Writer(moves[-1].type.dtype, list(program.steps))
    at = program.result
    for move in moves:
        node = graph.node(move.node)
        at = writer.copy(node, node.operands[0][0], at, move.type, move.index)
    return replace(program, steps=tuple(writer.steps), result=at)


def _start(graph: Graph, form: Form) -> tuple[Writer, Ref]:
    """Return a writer behind the form's moves."""
    writer, at = Writer(form.base.dtype), ENTRY
    for move in form.moves:
        if move.layout is not None:
            shape, axis, to = move.layout
            if move.added is not None:
                column = _along(move.added, axis, len(shape))
                at = writer.op("aten.add.Tensor", shape, {"self": at, "other": column})
                continue
            at = arrange(writer, at, shape, axis, move.type.shape, to)
            continue
        node = graph.node(move.node)
        at = writer.copy(node, node.operands[0][0], at, move.type, move.index)
    return writer, at


def _pointwise(graph: Graph, form: Form, exit_: TensorType) -> Iterator[Program]:
    if form.taps.diagonal:
        yield _diagonal(graph, form, exit_)
        if form.base_axis != 1 or not 3 <= form.base.rank <= 5:
            return
        if form.shift is None or form.shift.dim() > 1:
            return
    else:
        yield _linear(graph, form, exit_)
    if 1 <= form.taps.rank <= 3:
        yield from _spatial(graph, form, exit_)


def _shortest(graph: Graph, form: Form, found: list[Program]) -> list[Program]:
    """Return the layout of a dense matrix that moves the fewest elements in the fewest operations.

    The product is the same in each layout, so that nothing is left to a price: what a kernel takes alone
    says more about the layout its runtime likes than about its place in a model. More blocks than one
    make another product of it.
    """
    if form.taps.diagonal or blocks.coarse(form.taps.blocks).groups != 1:
        return found

    def length(program: Program) -> tuple[int, int, float]:
        moved = sum(c.bytes for c in program_counts(program, form.base, partial(hint, graph)))
        return sum(s.op not in FREE for s in program.steps), len(program.steps), moved

    return [min(found, key=length)]


def _diagonal(graph: Graph, form: Form, exit_: TensorType) -> Program:
    writer, at = _start(graph, form)
    shape, axis = form.base.shape, form.base_axis
    scale = form.taps.weight.reshape(-1)
    if not (form.real and bool((scale == 1).all())):
        at = writer.op("aten.mul.Tensor", shape, {"self": at, "other": _along(scale, axis, len(shape))})
    shift = form.shift
    if shift is not None and not (form.real and not bool(shift.any())):
        at = writer.op("aten.add.Tensor", shape, {"self": at, "other": _along(shift, axis, len(shape))})
    at = arrange(writer, at, shape, axis, exit_.shape, form.axis)
    return writer.program(at, shape_only=_is_map(form) or form.shape_only)


def _is_map(form: Form) -> bool:
    return form.shift is not None and form.shift.dim() > 1


def _along(tensor: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """Return a shift, [C] or [C, *grid], shaped to broadcast with its channels on `axis`."""
    if tensor.dim() == 1:
        return tensor.reshape(-1, *(1,) * (rank - 1 - axis))
    return tensor.movedim(0, axis - 1)[None]


def _linear(graph: Graph, form: Form, exit_: TensorType) -> Program:
    writer, at = _start(graph, form)
    grid = grid_of(form.base.shape, form.base_axis)
    lead, last = form.base.shape[0], form.base.rank - 1
    shape = (lead, *grid, form.base.shape[form.base_axis])
    at = arrange(writer, at, form.base.shape, form.base_axis, shape, last)
    matrix = blocks.regrouped(form.taps.blocks, 1).weight[0, 0]
    made = (lead, *grid, matrix.shape[0])
    bias = None if _is_map(form) else form.shift
    at = writer.op("aten.linear.default", made, {"input": at, "weight": matrix, "bias": bias})
    if _is_map(form):
        assert form.shift is not None
        at = writer.op("aten.add.Tensor", made, {"self": at, "other": _along(form.shift, last, last + 1)})
    at = arrange(writer, at, made, last, exit_.shape, form.axis)
    return writer.program(at, shape_only=_is_map(form) or form.shape_only)


def _spatial(graph: Graph, form: Form, exit_: TensorType, splits: bool = False) -> Iterator[Program]:
    taps = form.taps
    if not 1 <= taps.rank <= 3:
        raise Refusal(f"there is no convolution over {taps.rank} spatial axes")
    lead = _lead(form)
    if _covers(form):
        yield _flattened(graph, form, exit_, lead)
    for write in convolutions(taps, form.shift, splits):
        writer, at = _start(graph, form)
        shape = (lead, taps.channels_in, *taps.in_size)
        at = arrange(writer, at, form.base.shape, form.base_axis, shape, 1)
        at = write.run(writer, at, lead)
        at = arrange(writer, at, (lead, taps.channels_out, *taps.out_size), 1, exit_.shape, form.axis)
        yield writer.program(at, write.note, write.shape_only or form.shape_only)


def _covers(form: Form) -> bool:
    """Tell whether the taps are one window over the whole image: a linear over all of it."""
    taps = form.taps
    inside = all(
        isinstance(size, int) and 0 <= o[axis] < size
        for axis, size in enumerate(taps.in_size)
        for o in taps.offsets
    )
    return inside and all(d == 1 for d in (*taps.out_size, *taps.up)) and not _is_map(form)


def _flattened(graph: Graph, form: Form, exit_: TensorType, lead: Dim) -> Program:
    taps = form.taps
    sizes_ = [d for d in taps.in_size if isinstance(d, int)]
    places = [sum(i * math.prod(sizes_[k + 1 :]) for k, i in enumerate(o)) for o in taps.offsets]
    matrix = blocks.regrouped(taps.blocks, 1).weight[:, 0]
    weight = matrix.new_zeros(math.prod(sizes_), *matrix.shape[1:])
    weight[places] = matrix
    flat = weight.permute(1, 2, 0).reshape(taps.channels_out, -1)
    writer, at = _start(graph, form)
    at = arrange(writer, at, form.base.shape, form.base_axis, (lead, taps.channels_in, *sizes_), 1)
    shape = (lead, flat.shape[1])
    at = writer.op("aten.reshape.default", shape, {"self": at, "shape": shape})
    made = (lead, taps.channels_out)
    at = writer.op("aten.linear.default", made, {"input": at, "weight": flat, "bias": form.shift})
    at = arrange(writer, at, made, 1, exit_.shape, form.axis)
    return writer.program(at, shape_only=form.shape_only)


def _lead(form: Form) -> Dim:
    """Return the size of the leading axis of the grid the taps run over."""
    taps, base = form.taps, form.base
    if taps.in_size == grid_of(base.shape, form.base_axis):
        return base.shape[0]
    grid = _count(taps.in_size)
    total = _count(_others(base.shape, form.base_axis))
    if grid is None or total is None:
        raise Refusal("its positions are regrouped and their count is only known at run time")
    return total // grid


def _others(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return tuple(d for i, d in enumerate(shape) if i != axis)


def _count(dims: Sequence[Dim]) -> int | None:
    total = 1
    for d in dims:
        if not isinstance(d, int):
            return None
        total *= d
    return total
