"""One-way filters: k x k kernels as chains of 1-D ones, which mostly stay chains.

The dense product of `(k, 1)` and `(1, k)` costs k^2 where the chain costs 2k (k^3 against 3k in 3-D). Depthwise
with a small k both are bound by memory, and one launch less decides. Equal only where the second filter pads
with what the first gives on zeros: no bias between, or padding by that bias.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Exactness, Merge, Method, Refusal

METHOD = Method("2.27", "A-priori one-way filters", "arXiv 2304.04964", "M2")


class OneWay(nn.Module):
    """A 1-D filter on each spatial axis in turn; between the first two, padding with zeros or `pad_value`."""

    def __init__(
        self, rank: int, channels: int, k: int, groups: int, bias: bool, pad_value: float = 0.0
    ) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        kernels = [[k if a == axis else 1 for a in range(rank)] for axis in range(rank)]
        pads = [[s // 2 for s in kernel] for kernel in kernels]
        if pad_value:
            pads[1] = [0] * rank
        self.filters = nn.ModuleList(
            conv(channels, channels, kernel, padding=pad, groups=groups, bias=bias or axis == rank - 1)
            for axis, (kernel, pad) in enumerate(zip(kernels, pads, strict=True))
        )
        self.half, self.pad_value = k // 2, pad_value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, one_way in enumerate(self.filters):
            if i == 1 and self.pad_value:
                x = F.pad(x, (self.half, self.half), value=self.pad_value)
            x = one_way(x)
        return x


def chain(rank: int = 2, channels: int = 4, k: int = 3, groups: int = 4, bias: bool = False) -> Built:
    size = (11, 13, 9)[:rank] if groups > 1 else (33, 35, 31)[:rank]
    return scramble(OneWay(rank, channels, k, groups, bias)), (sample(1, channels, *size),)


class PaddedByChannel(nn.Module):
    """A depthwise pair with a vector as the frame between: its bias, plus `off`."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.down, self.across = (
            nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4),
            nn.Conv2d(4, 4, (1, 3), groups=4),
        )
        self.off = off

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        x, frame = F.pad(x, (1, 1)), (self.down.bias + self.off).reshape(1, -1, 1, 1)
        x[..., :1] = frame
        x[..., -1:] = frame
        return self.across(x)


def padded_by_its_bias() -> Built:
    module = scramble(OneWay(2, 4, 3, 4, bias=True, pad_value=0.75))
    nn.init.constant_(module.filters[0].bias, 0.75)
    return module, (sample(1, 4, 11, 13),)


def by_channel(off: float) -> Built:
    return scramble(PaddedByChannel(off)), (sample(2, 4, 11, 13),)


MERGES = (
    Merge("depthwise", chain, {"conv2d": 1}),
    Merge("depthwise in 3-D", lambda: chain(rank=3), {"conv3d": 1}),
    Merge("padded by its bias", padded_by_its_bias, {"conv2d": 1}),
    Merge("padded by its bias of each channel", lambda: by_channel(0.0), {"conv2d": 1}),
    # The frame misses what the bias adds inside: a map over the positions has the difference.
    Merge("padded by another vector", lambda: by_channel(0.5), {"conv2d": 1, "add": 1}, Exactness.SHAPE),
)
REFUSALS = (Refusal("bias between", lambda: chain(bias=True), {"conv2d": 2}, "zero fill"),)
DEARER = (
    Dearer("dense", lambda: chain(channels=16, k=5, groups=1), {"conv2d": 2}, node="conv2d"),
    Dearer("dense in 3-D", lambda: chain(rank=3, channels=16, groups=1), {"conv3d": 3}, node="conv3d"),
)
