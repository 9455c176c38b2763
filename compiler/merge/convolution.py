"""A tap map as convolutions (`merges.md` 1.1), whole or as a sum of smaller ones.

With offsets `o_min .. o_max` on an axis and step `g = gcd(o - o_min)`, the kernel has
`K = (o_max - o_min) / g + 1` taps at dilation `g` and left padding `-o_min`; the right padding is any
that gives the same output size. Where both can be equal the convolution pads by itself; otherwise
either a pad (or crop) goes in front, or zero taps make the kernel symmetric.

A shift that depends on the position (`merges.md` 1.5) is written in one of three ways: (a) where some
constant `c` outside the image would explain it, subtract `c` first, which turns the zeros of the padding
into `c`; (b) add the static map, exact for the compiled shape; (c) give the input a channel of
ones. The fourth way, to leave an operation unmerged, is a cut, and the price's to choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from compiler.ir.graph import Dim, Operand
from compiler.merge import blocks, split
from compiler.merge.attempt import Refusal
from compiler.merge.blocks import Blocks
from compiler.merge.shift import Shift, border, constant_response
from compiler.merge.step import Ref, Writer
from compiler.merge.tap_map import ZEROS, TapMap, with_blocks


@dataclass(frozen=True)
class Way:
    """One way to write a map: `run(writer, at, leading size)` returns where the result is."""

    run: Callable[[Writer, Ref, Dim], Ref]
    note: str = ""
    shape_only: bool = False


@dataclass(frozen=True)
class Axis:
    """How one axis is emitted: kernel size, dilation, padding on both sides, first offset."""

    kernel: int
    dilation: int
    left: int
    right: int
    start: int
    edge: str = ZEROS


def convolutions(taps: TapMap, shift: Shift, splits: bool = False) -> Iterator[Way]:
    """Yield the ways to write a map with a shift, with `splits` as sums of smaller ones too.

    Raises Refusal where there is none.
    """
    taps = with_blocks(taps, blocks.coarse(taps.blocks))
    if shift is not None and shift.dim() > 1:
        yield from _uneven(taps, shift)
        return
    for note, write in _wholes(taps):
        yield Way(lambda w, at, lead, write=write: write(w, at, lead, shift), note)  # type: ignore[misc]
    if not splits or taps.blocks.groups == 1:
        return
    for note, parts in split.sums(taps):
        yield Way(lambda w, at, lead, parts=parts: _sum(w, at, lead, parts, shift), note)  # type: ignore[misc]
    for note, pairs in split.products(taps):
        yield Way(lambda w, at, lead, pairs=pairs: _pairs(w, at, lead, pairs, shift), note)  # type: ignore[misc]


Write = Callable[[Writer, Ref, Dim, Shift], Ref]


def _wholes(taps: TapMap) -> list[tuple[str, Write]]:
    if any(u != 1 for u in taps.up):
        return [("", lambda w, at, lead, shift: _transposed(w, at, lead, taps, shift))]
    axes = tuple(_axis(taps, i) for i in range(taps.rank))
    even = tuple(_symmetric(a) for a in axes)
    options = [axes] if even == axes else [axes, even]
    return [("", lambda w, at, lead, shift, a=a: _convolution(w, at, lead, taps, a, shift)) for a in options]  # type: ignore[misc]


def _uneven(taps: TapMap, shift: torch.Tensor) -> Iterator[Way]:
    """Yield the ways out of a zero fill that a shift meets."""
    write = _wholes(taps)[0][1]

    def with_map(w: Writer, at: Ref, lead: Dim) -> Ref:
        at = write(w, at, lead, None)
        shape = (lead, taps.channels_out, *taps.out_size)
        return w.op("aten.add.Tensor", shape, {"self": at, "other": shift[None]})

    yield Way(with_map, "a static map added", shape_only=True)
    found = border(taps, shift) if taps.real and set(taps.up) == {1} else None
    if found is None:
        return
    outside, bias = found
    whole = bias + constant_response(taps, outside)

    def with_border(w: Writer, at: Ref, lead: Dim) -> Ref:
        shape = (lead, taps.channels_in, *taps.in_size)
        column = -outside.reshape(-1, *(1,) * taps.rank)
        at = w.op("aten.add.Tensor", shape, {"self": at, "other": column})
        return write(w, at, lead, whole)

    yield Way(with_border, "the constant outside the image subtracted first")

    def with_ones(w: Writer, at: Ref, lead: Dim) -> Ref:
        ones = torch.ones((lead, 1, *taps.in_size), dtype=torch.float64)  # type: ignore[arg-type]
        shape = (lead, taps.channels_in + 1, *taps.in_size)
        at = w.op("aten.cat.default", shape, {"tensors": (at, ones), "dim": 1})
        return _wholes(_with_column(taps, -outside))[0][1](w, at, lead, whole)

    if isinstance(shift.numel(), int) and all(isinstance(d, int) for d in taps.in_size):
        yield Way(with_ones, "a channel of ones appended", shape_only=True)


def _with_column(taps: TapMap, values: torch.Tensor) -> TapMap:
    """Return the map with one more input channel, whose column is the map of `values`."""
    whole = blocks.regrouped(taps.blocks, 1)
    column = torch.einsum("toi,i->to", whole.weight[:, 0], values)
    wide = torch.cat([whole.weight, column[:, None, :, None]], 3)
    return with_blocks(taps, blocks.grouped(wide))


def _sum(w: Writer, at: Ref, lead: Dim, parts: tuple[TapMap, ...], shift: Shift) -> Ref:
    """Write the sum of several maps; the shift is the first one's bias."""
    total: Ref | None = None
    for part in parts:
        write = _wholes(part)[0][1]
        made = write(w, at, lead, shift if total is None else None)
        shape = (lead, part.channels_out, *part.out_size)
        total = made if total is None else w.op("aten.add.Tensor", shape, {"self": total, "other": made})
    assert total is not None
    return total


def _pairs(w: Writer, at: Ref, lead: Dim, pairs: tuple[tuple[TapMap, TapMap], ...], shift: Shift) -> Ref:
    total: Ref | None = None
    for first, second in pairs:
        made = _wholes(first)[0][1](w, at, lead, None)
        made = _wholes(second)[0][1](w, made, lead, shift if total is None else None)
        shape = (lead, second.channels_out, *second.out_size)
        total = made if total is None else w.op("aten.add.Tensor", shape, {"self": total, "other": made})
    assert total is not None
    return total


def _axis(taps: TapMap, axis: int) -> Axis:
    offsets = sorted({o[axis] for o in taps.offsets})
    start = offsets[0]
    dilation = math.gcd(*(o - start for o in offsets)) or 1
    kernel = (offsets[-1] - start) // dilation + 1
    extent = dilation * (kernel - 1) + 1
    right = taps.slack[axis] + extent + start
    size, count, stride = taps.in_size[axis], taps.out_size[axis], taps.stride[axis]
    if isinstance(size, int) and isinstance(count, int):
        least = (count - 1) * stride - size + start + extent
        right = min(max(-start, least), least + stride - 1)
    return Axis(kernel, dilation, -start, right, start, taps.edge[axis])


def _symmetric(axis: Axis) -> Axis:
    """Return the axis with zero taps added on the shorter side, where the dilation allows."""
    gap = axis.left - axis.right
    if gap == 0 or min(axis.left, axis.right) < 0 or gap % axis.dilation or axis.edge != ZEROS:
        return axis
    kernel = axis.kernel + abs(gap) // axis.dilation
    widest = max(axis.left, axis.right)
    return Axis(kernel, axis.dilation, widest, widest, -widest)


def _convolution(w: Writer, at: Ref, lead: Dim, taps: TapMap, axes: tuple[Axis, ...], shift: Shift) -> Ref:
    padding = [0 if a.edge != ZEROS else a.left for a in axes]
    sizes: list[Dim] = list(taps.in_size)
    for mode in dict.fromkeys(a.edge for a in axes):
        own = [a.edge == mode and (mode != ZEROS or a.left != a.right or a.left < 0) for a in axes]
        if not any(a.left or a.right for a, mine in zip(axes, own, strict=True) if mine):
            continue
        own = [a.edge == ZEROS for a in axes] if mode == ZEROS else own
        pads = tuple((a.left, a.right) if mine else (0, 0) for a, mine in zip(axes, own, strict=True))
        sizes = [_grown(d, sum(p)) for d, p in zip(sizes, pads, strict=True)]
        at = _pad(w, at, (lead, taps.channels_in, *sizes), pads, mode)
        padding = [0 if mine else p for p, mine in zip(padding, own, strict=True)]
    operands: dict[str, Operand] = {
        "input": at,
        "weight": _kernel(taps, axes),
        "bias": shift,
        "stride": taps.stride,
        "padding": tuple(padding),
        "dilation": tuple(a.dilation for a in axes),
        "groups": taps.blocks.groups,
    }
    return w.op(f"aten.conv{taps.rank}d.default", (lead, taps.channels_out, *taps.out_size), operands)


def _pad(w: Writer, at: Ref, shape: tuple[Dim, ...], pads: tuple[tuple[int, int], ...], mode: str) -> Ref:
    if mode == ZEROS:
        at = _cropped(w, at, shape, pads)
        pads = tuple((max(left, 0), max(right, 0)) for left, right in pads)
        if not any(map(any, pads)):
            return at
    flat = tuple(v for pair in reversed(pads) for v in pair)
    if mode == ZEROS:
        return w.op("aten.constant_pad_nd.default", shape, {"self": at, "pad": flat, "value": 0.0})
    if min(flat) < 0:
        raise Refusal(f"a kernel that leaves out the border of an image padded by {mode}")
    return w.op("aten.pad.default", shape, {"self": at, "pad": flat, "mode": mode, "value": None})


def _cropped(w: Writer, at: Ref, shape: tuple[Dim, ...], pads: tuple[tuple[int, int], ...]) -> Ref:
    """Cut what negative padding takes away: few runtimes pad by less than nothing."""
    sizes = [_grown(d, -left - right) for d, (left, right) in zip(shape[2:], pads, strict=True)]
    for axis, (left, right) in enumerate(pads):
        start, cut = max(-left, 0), max(-left, 0) + max(-right, 0)
        if cut:
            end = _grown(sizes[axis], start - cut)
            sizes[axis] = _grown(sizes[axis], -cut)
            operands: dict[str, Operand] = {
                "self": at,
                "dim": axis + 2,
                "start": start,
                "end": end,
                "step": 1,
            }
            at = w.op("aten.slice.Tensor", (*shape[:2], *sizes), operands)
    return at


def _grown(dim: Dim, by: int) -> Dim:
    if not isinstance(dim, int):
        raise Refusal("asymmetric padding of an axis whose size is only known at run time")
    return dim + by


def _kernel(taps: TapMap, axes: tuple[Axis, ...]) -> torch.Tensor:
    """Return the convolution weight, [Co, Ci/G, *kernel], zeros where there is no tap."""
    flat = _filled(taps.blocks, taps, axes)
    weight = flat.reshape(len(flat), taps.channels_out, -1).permute(1, 2, 0)
    return weight.reshape(taps.channels_out, -1, *(a.kernel for a in axes))


def _filled(matrices: Blocks, taps: TapMap, axes: tuple[Axis, ...]) -> torch.Tensor:
    """Return the matrices at every place of the kernel, [prod(kernel), G, r, k]."""
    sizes = [a.kernel for a in axes]
    places = []
    for offset in taps.offsets:
        index = [(o - a.start) // a.dilation for o, a in zip(offset, axes, strict=True)]
        places.append(sum(i * math.prod(sizes[k + 1 :]) for k, i in enumerate(index)))
    flat = matrices.weight.new_zeros(math.prod(sizes), *matrices.weight.shape[1:])
    flat[places] = matrices.weight
    return flat


def _transposed(w: Writer, at: Ref, lead: Dim, taps: TapMap, shift: Shift) -> Ref:
    """Write a map over stuffed zeros: tap `o` is kernel index `(padding - o) / dilation`."""
    axes, extra = [], []
    for axis in range(taps.rank):
        offsets = sorted({o[axis] for o in taps.offsets})
        size, count, up = taps.in_size[axis], taps.out_size[axis], taps.up[axis]
        if not isinstance(size, int) or not isinstance(count, int):
            raise Refusal("a transposed convolution over an axis whose size is only known at run time")
        dilation = math.gcd(*(o - offsets[0] for o in offsets)) or 1
        kernel = (offsets[-1] - offsets[0]) // dilation + 1
        pad = offsets[-1]
        over = count - ((size - 1) * up - 2 * pad + dilation * (kernel - 1) + 1)
        if pad < 0 or not 0 <= over < max(up, dilation):
            raise Refusal("no transposed convolution has this padding and output size")
        axes.append(Axis(kernel, dilation, pad, pad, offsets[0]))
        extra.append(over)
    flat = _filled(taps.blocks, taps, tuple(axes)).flip(0)  # [T, G, r, k]
    weight = flat.permute(1, 3, 2, 0).reshape(taps.channels_in, -1, *(a.kernel for a in axes))
    operands: dict[str, Operand] = {
        "input": at,
        "weight": weight,
        "bias": shift,
        "stride": taps.up,
        "padding": tuple(a.left for a in axes),
        "output_padding": tuple(extra),
        "groups": taps.blocks.groups,
        "dilation": tuple(a.dilation for a in axes),
    }
    op = "aten.conv_transpose1d.default" if taps.rank == 1 else f"aten.conv_transpose{taps.rank}d.input"
    return w.op(op, (lead, taps.channels_out, *taps.out_size), operands)
