r"""A 2-D convolution fitted to a known output, from what it reads.

For each group, with P the patches of its inputs and r what the convolution at hand still misses,

    :math:`\Delta = \arg\min \|P \Delta + c - r\|^2 + \lambda \|\Delta\|^2`

by `compiler.compress.least_squares`. The damping draws the kernel to the one at hand, not to zero, so
that few rows change little. With fewer than 10 rows a tap only the bias is moved, to the mean of r.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from compiler.compress.least_squares import RIDGE, refit

ROWS_PER_TAP = 10
_ROWS_ENOUGH = 40  # a tap; more rows are thinned out
_LARGEST = 1 << 25  # numbers held at once: a quarter of a GiB


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution with zero fill: weight [out, in / groups, kh, kw], bias [out], in float64."""

    weight: torch.Tensor
    bias: torch.Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of [N, in, H, W]."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """Return what each output reads, [groups, positions, taps]."""
        columns = F.unfold(x, self.weight.shape[2:], self.dilation, self.padding, self.stride)
        columns = columns.reshape(len(columns), self.groups, -1, columns.shape[2])
        return columns.permute(1, 0, 3, 2).flatten(1, 2)


def fitted(
    conv: Convolution, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], count: int, ridge: float = RIDGE
) -> Convolution:
    """Return the convolution fitted to pairs of (input [N, in, H, W], output [N, out, H', W']).

    Args:
        conv: where the fit starts.
        pairs: float64, one for each sample.
        count: the positions there are in all pairs.
        ridge: the damping in units of the patches' mean square.
    """
    taps = conv.weight[0].numel()
    limit = min(_ROWS_ENOUGH * taps, _LARGEST // (taps * conv.groups))
    every = max(1, -(-count // limit)) if limit else count
    patches: list[torch.Tensor] = []
    missing: list[torch.Tensor] = []
    mean, seen = torch.zeros_like(conv.bias), 0
    for x, y in pairs:
        rest = (y - conv(x)).movedim(1, -1).flatten(0, 2)
        mean += rest.sum(0)
        rest = rest.reshape(len(rest), conv.groups, -1).movedim(1, 0)
        # Each sample starts elsewhere, so that the thinning favours no column of the picture.
        pick = slice((len(patches) * 7) % every, None, every)
        patches.append(conv.patches(x)[:, pick])
        missing.append(rest[:, pick])
        seen += rest.shape[1]
    if not seen:
        return conv
    rows, rest = torch.cat(patches, 1), torch.cat(missing, 1)
    if rows.shape[1] < ROWS_PER_TAP * taps:
        return replace(conv, bias=conv.bias + mean / seen)
    found = [refit(p, r, ridge) for p, r in zip(rows, rest, strict=True)]
    change = torch.cat([w for w, _ in found]).reshape(conv.weight.shape)
    return replace(conv, weight=conv.weight + change, bias=conv.bias + torch.cat([b for _, b in found]))
