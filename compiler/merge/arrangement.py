"""Where each element of a value comes from: a position and a channel of a form.

A form's result is a table of positions (leading axis and grid, in order) by channels. A value that a
network keeps as `[N, C, H, W]`, `[N, H, W, C]`, `[N, heads, tokens, d]` or in any other arrangement
is that table behind reshapes, permutations and selections. They are never matched: the operation
itself is run on the integers `position * channels + channel`, and what comes out says where every
element went. Where all elements of one axis are the channels of one position, that axis is the channel
axis again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Arrangement:
    """`code`: `position * channels + channel` for each element of the value."""

    code: torch.Tensor
    channels: int

    @property
    def position(self) -> torch.Tensor:
        """The position of each element."""
        return self.code // self.channels

    @property
    def channel(self) -> torch.Tensor:
        """The channel of each element."""
        return self.code % self.channels


@dataclass(frozen=True, eq=False)
class Axis:
    """A value whose axis `axis` holds the channels `order`; the other axes are positions."""

    axis: int
    order: torch.Tensor
    in_order: bool  # whether the positions are those of the table, in its order


def standard(shape: tuple[int, ...], axis: int) -> Arrangement:
    """Return the arrangement of a value of `shape` whose channels lie on `axis`, positions in order."""
    channels = shape[axis]
    others = [s for i, s in enumerate(shape) if i != axis]
    count = 1
    for size in others:
        count *= size
    table = torch.arange(count * channels).reshape(*others, channels)
    return Arrangement(table.movedim(-1, axis), channels)


def channel_axis(arrangement: Arrangement) -> Axis | None:
    """Return the axis that holds the channels, or None where they are spread over several."""
    code, channels = arrangement.code, arrangement.channels
    if code.dim() < 2:
        return None
    candidates = [a for a in (1, code.dim() - 1, *range(code.dim())) if a < code.dim()]
    for axis in dict.fromkeys(candidates):
        first = code.movedim(axis, 0).flatten(1)
        if first.shape[1] == 0:
            return None
        order, position = first[:, 0] % channels, first[0] // channels
        if bool((first == position * channels + order[:, None]).all()):
            return Axis(axis, order, bool((position == torch.arange(len(position))).all()))
    return None
