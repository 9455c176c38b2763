"""Patches laid out as channels are a tap map: pixel unshuffle, and patchify by reshapes (`merges.md` 1.6).

    y[p, k] = x[r p + o_k, c_k]

selects channel `c_k` at offset `o_k` of patch `p`, patches of size `r` side by side. A matrix behind it
is a convolution with kernel and stride `r`. As everywhere, the operations are not matched: where each
element went says whether this is what they did.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from compiler.merge import tap_map
from compiler.merge.blocks import grouped
from compiler.merge.blocks import rows as block_rows
from compiler.merge.form import Form
from compiler.merge.tap_map import TapMap

_LARGEST = 1 << 20  # elements of the selection matrices


def unshuffled(form: Form) -> Form | None:
    """Return the form whose channels are the elements of patches on one axis of the value, else None."""
    grid = form.taps.out_size
    static = all(isinstance(d, int) for d in grid)
    if form.arrangement is None or not static or (form.shift is not None and form.shift.dim() > 1):
        return None
    sizes = tuple(int(d) for d in grid if isinstance(d, int))
    rank = form.arrangement.code.dim()
    for axis in dict.fromkeys((1, rank - 1)):
        found = _patches(form, sizes, axis) if 0 < axis < rank else None
        if found is not None:
            return found
    return None


def _patches(form: Form, sizes: tuple[int, ...], axis: int) -> Form | None:
    assert form.arrangement is not None
    code = form.arrangement.code.movedim(axis, -1).flatten(0, -2)
    channel, position = code[0] % form.arrangement.channels, code[0] // form.arrangement.channels
    offsets = torch.stack(torch.unravel_index(position, sizes), 1) if sizes else position[:, None]
    patch = tuple(int(o) + 1 for o in offsets.amax(0)) if sizes else ()
    count = code.shape[0] * len(channel)
    whole = all(s % r == 0 for s, r in zip(sizes, patch, strict=True))
    side_by_side = whole and 1 < torch.Size(patch).numel() < torch.Size(sizes).numel()
    if not side_by_side or count != form.positions * form.arrangement.channels:
        return None
    if len(channel) * torch.Size(patch).numel() > _LARGEST:
        return None
    many = tuple(s // r for s, r in zip(sizes, patch, strict=True))
    corner = _corners(sizes, patch, many, form.positions // torch.Size(sizes).numel())
    if len(corner) != len(code) or not code.equal(corner[:, None] * form.arrangement.channels + code[0]):
        return None
    taps = _selection(form, channel, offsets, sizes, patch, many)
    shift = None if form.shift is None else form.shift[channel.to(form.shift.device)]
    shape = tuple(form.arrangement.code.shape)
    return replace(
        form,
        taps=tap_map.compose(form.taps, taps),
        shift=shift,
        shape=shape,
        axis=axis,
        positions=len(corner),
        arrangement=None,
        pending=(),
        origin=None,
        unshuffled=True,
    )


def _corners(
    sizes: tuple[int, ...], patch: tuple[int, ...], many: tuple[int, ...], lead: int
) -> torch.Tensor:
    """Return the position of the first element of each patch, in order."""
    table = torch.arange(lead * torch.Size(sizes).numel()).reshape(lead, *sizes)
    for axis, (r, n) in enumerate(zip(patch, many, strict=True)):
        table = table.index_select(axis + 1, torch.arange(n) * r)
    return table.flatten()


def _selection(
    form: Form,
    channel: torch.Tensor,
    offsets: torch.Tensor,
    sizes: tuple[int, ...],
    patch: tuple[int, ...],
    many: tuple[int, ...],
) -> TapMap:
    """Return the map of which row k is a one at channel `channel[k]` and offset `offsets[k]`."""
    inner = form.taps.channels_out
    taps, which = torch.unique(offsets, dim=0, return_inverse=True)
    one = torch.zeros(len(taps), inner, len(taps), 1, dtype=torch.float64)
    one[torch.arange(len(taps)), :, torch.arange(len(taps))] = 1.0
    every = grouped(form.weight(one))  # row c T + t: channel c at tap t
    matrices = block_rows(every, channel * len(taps) + which)
    slack = tuple(-r for r in patch)
    return tap_map.plain(
        tuple(tuple(int(o) for o in row) for row in taps), matrices, patch, slack, sizes, many
    )
