"""What a region computes relative to its entry (`merges.md` 1.15, step 5).

    value = arranged(taps(moved(entry)) + shift)

`moved` is the entry behind operations that treat all channels alike and all constants as constants
(a mean over positions, a roll, a window partition): they commute with every map at one position, and
are put in front of it. `arranged` says which element of the result each element of the value is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from compiler.ir.graph import Dim, Graph, TensorType, Value
from compiler.merge import tap_map
from compiler.merge.arrangement import Arrangement, channel_axis, standard
from compiler.merge.attempt import Refusal
from compiler.merge.shift import Shift
from compiler.merge.sizes import sizes
from compiler.merge.tap_map import TapMap


@dataclass(frozen=True, eq=False)
class Move:
    """An operation of the graph to be run on the entry itself: the node, and the type it then has.

    With `layout`, (shape and channel axis before, channel axis after), it is no node but whatever brings
    the channels and the positions, in order, there; with `added`, the sum with that vector over channels.
    """

    node: str
    type: TensorType
    index: int = 0
    layout: tuple[tuple[Dim, ...], int, int] | None = None
    added: torch.Tensor | None = None


@dataclass(frozen=True)
class Origin:
    """Where the channels last lay on one axis: the value's type, that axis, and the movements before it."""

    type: TensorType
    axis: int
    moves: int


@dataclass(frozen=True, eq=False)
class Form:
    """A region's result: `shape` in plain integers, channels on `axis` unless `arrangement` says where.

    `positions` counts those of the table. `base` is the type of the entry after `moves`, with its channels
    on `base_axis`. `pending` are the movements since the base, `origin` where those begin that the
    arrangement undoes. `uneven` names the operation at which the shift came to depend on the position.
    `shape_only`: it holds for the compiled shape only. `unshuffled`: patches became channels on the way.
    """

    taps: TapMap
    shift: Shift
    shape: tuple[int, ...]
    axis: int
    base: TensorType
    base_axis: int
    positions: int
    arrangement: Arrangement | None = None
    moves: tuple[Move, ...] = ()
    pending: tuple[Move, ...] = ()
    origin: Origin | None = None
    uneven: str = ""
    shape_only: bool = False
    unshuffled: bool = False

    @property
    def real(self) -> bool:
        """Whether weights have values."""
        return self.taps.real

    def weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a weight in float64 on the form's device; on the meta device nothing is copied."""
        if self.real:
            return tensor.detach().double()
        return torch.empty(tensor.shape, dtype=torch.float64, device="meta")

    def arranged(self) -> Arrangement:
        """Return where each element of the value comes from."""
        return self.arrangement or standard(self.shape, self.axis)


def entry_form(graph: Graph, entry: Value, axis: int, weights: bool) -> Form:
    """Return the identity on the entry with its channels on `axis`; raises Refusal."""
    type_ = graph.type_of(entry)
    channels = type_.shape[axis]
    if not isinstance(channels, int):
        raise Refusal("the channel count is only known at run time")
    if 0 in type_.shape:
        raise Refusal("it holds no elements", quiet=True)
    grid = grid_of(type_.shape, axis)
    taps = tap_map.identity(channels, grid, "cpu" if weights else "meta")
    shape = sizes(graph, type_)
    return Form(taps, None, shape, axis, type_, axis, math.prod(shape) // channels)


def grid_of(shape: tuple[Dim, ...], axis: int) -> tuple[Dim, ...]:
    """Return the spatial sizes of a shape: all but the leading axis and the channel axis."""
    return tuple(d for i, d in enumerate(shape) if i not in (0, axis))


def settled(form: Form) -> Form:
    """Return the form with its channels on one axis again, where they are and no position has moved."""
    if form.arrangement is None:
        return form
    found = channel_axis(form.arrangement)
    if found is None or not found.in_order:
        return form
    if form.arrangement.code.numel() != len(found.order) * form.positions:
        return form  # a selection of positions: in order, but not all of them
    picked = rows(form, found.order)
    return replace(picked, axis=found.axis, arrangement=None)


def rows(form: Form, order: torch.Tensor) -> Form:
    """Return the form with the channels `order` of its table, in that order."""
    if order.equal(torch.arange(form.taps.channels_out)):
        return form
    shift = form.shift if form.shift is None else form.shift[order.to(form.shift.device)]
    return replace(form, taps=tap_map.rows(form.taps, order), shift=shift)
