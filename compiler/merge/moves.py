"""Movements put in front of a region: replayed on its entry, and compared element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from compiler.ir.graph import Dim, Graph, TensorType
from compiler.merge import blocks, tap_map
from compiler.merge.arrangement import Arrangement, Axis, channel_axis, standard
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form, Move, grid_of, rows
from compiler.merge.running import run_on
from compiler.merge.sizes import constant, sizes


def in_front(graph: Graph, form: Form) -> Form:
    """Return the form with its movements in front of it and its channels on one axis; raises Refusal."""
    if form.arrangement is None and form.base.static and form.taps.pointwise:
        return _laid_out(form)
    found = channel_axis(form.arranged())
    if found is None:
        raise Refusal("its channels end up spread over several axes", quiet=True)
    if not form.taps.pointwise or (form.shift is not None and form.shift.dim() > 1):
        raise Refusal("its positions are moved behind an operation over several of them", quiet=True)
    code = _replayed(graph, form)
    there = channel_axis(code)
    wanted = form.arranged().position.select(found.axis, 0)
    if there is None or there.axis != found.axis or not code.position.select(found.axis, 0).equal(wanted):
        raise Refusal("its positions are moved at another width than the region begins with", quiet=True)
    if not there.order.equal(torch.arange(code.channels)):
        return _picked(form, found, there)
    return _based(form, found)


def behind(graph: Graph, form: Form) -> tuple[Form, tuple[Move, ...]]:
    """Return the form at its origin, and the movements to be replayed behind it; raises Refusal."""
    origin, arranged = form.origin, form.arranged()
    if origin is None:
        raise Refusal("its channels end up spread over several axes", quiet=True)
    moves = form.pending[origin.moves :]
    here = standard(sizes(graph, origin.type), origin.axis)
    if here.channels != arranged.channels or here.channels != form.taps.channels_out:
        raise Refusal("its channels end up spread over several axes", quiet=True)
    if not _run(graph, moves, here).code.equal(arranged.code):
        raise Refusal("its channels end up spread over several axes", quiet=True)
    shape = sizes(graph, origin.type)
    return replace(form, arrangement=None, axis=origin.axis, shape=shape), moves


def flat(form: Form) -> Form | None:
    """Return the form with its channels last where the value is a reshape of that, else None."""
    code, channels = form.arranged().code, form.arranged().channels
    width = code.numel() // form.positions if form.positions else 0
    if not width or code.numel() != form.positions * width:
        return None
    table = code.reshape(form.positions, width)
    order = table[0] % channels
    expected = torch.arange(form.positions)[:, None] * channels + order
    if not table.equal(expected):
        return None
    picked = rows(form, order)
    return replace(picked, arrangement=None, shape=(form.positions, width), axis=1)


def _replayed(graph: Graph, form: Form) -> Arrangement:
    """Return where the pending movements bring each element of the base itself."""
    return _run(graph, form.pending, standard(sizes(graph, form.base), form.base_axis))


def _run(graph: Graph, moves: Sequence[Move], here: Arrangement) -> Arrangement:
    code = here.code
    for move in moves:
        node = graph.node(move.node)
        source = node.operands[0][1]
        others = {v: constant(graph, v) for _, v in node.values() if v != source}
        code = run_on(graph, node, source, code, others)[move.index]
    return replace(here, code=code)


def _laid_out(form: Form) -> Form:
    """Return a form whose positions are in order with the layout of its value in front of it."""
    channels = form.base.shape[form.base_axis]
    shape: tuple[Dim, ...] = tuple(channels if i == form.axis else d for i, d in enumerate(form.shape))
    base = TensorType(shape, form.base.dtype)
    move = Move("", base, layout=(form.base.shape, form.base_axis, form.axis))
    taps = tap_map.pointwise(form.taps.blocks, grid_of(shape, form.axis))
    moves = (*form.moves, move)
    return replace(form, taps=taps, base=base, base_axis=form.axis, moves=moves, pending=(), origin=None)


def selected(graph: Graph, form: Form) -> Form | None:
    """Return a form that scales some of the entry's channels with their selection in front, else None."""
    matrix = form.taps.blocks
    if (
        matrix.standard
        or matrix.weight.shape[2:] != (1, 1)
        or not form.pending
        or form.arrangement is not None
    ):
        return None
    try:
        there = channel_axis(_replayed(graph, form))
    except Refusal:
        return None
    if there is None or there.axis != form.axis or not there.in_order:
        return None
    if there.order.tolist() != list(matrix.source):
        return None
    last = form.pending[-1].type
    taps = tap_map.pointwise(blocks.diagonal(matrix.weight.reshape(-1)), grid_of(last.shape, form.axis))
    moves = (*form.moves, *form.pending)
    return replace(form, taps=taps, base=last, base_axis=form.axis, moves=moves, pending=())


def _picked(form: Form, found: Axis, there: Axis) -> Form:
    """Return a diagonal form behind movements that pick or reorder its channels."""
    if not form.taps.diagonal or not there.order.equal(found.order):
        raise Refusal("its channels are moved together with its positions", quiet=True)
    order = found.order.to(form.taps.weight.device)
    scale = form.taps.weight.reshape(-1)[order]
    last = form.pending[-1].type
    taps = tap_map.pointwise(blocks.diagonal(scale), grid_of(last.shape, found.axis))
    return replace(
        form,
        taps=taps,
        shift=None if form.shift is None else form.shift[order],
        axis=found.axis,
        base=last,
        base_axis=found.axis,
        arrangement=None,
        moves=(*form.moves, *form.pending),
        pending=(),
        positions=form.arranged().code.numel() // len(order),
    )


def _based(form: Form, found: Axis) -> Form:
    channels = form.base.shape[form.base_axis]
    last = form.pending[-1].type if form.pending else form.base
    shape = tuple(channels if i == found.axis else d for i, d in enumerate(last.shape))
    picked = rows(form, found.order)
    return replace(
        picked,
        taps=tap_map.pointwise(picked.taps.blocks, grid_of(shape, found.axis)),
        axis=found.axis,
        base=TensorType(shape, last.dtype),
        base_axis=found.axis,
        arrangement=None,
        moves=(*form.moves, *form.pending),
        pending=(),
        positions=form.arranged().code.numel() // len(found.order),
    )
