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
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

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


def padded_by_its_bias() -> Built:
    module = scramble(OneWay(2, 4, 3, 4, bias=True, pad_value=0.75))
    nn.init.constant_(module.filters[0].bias, 0.75)
    return module, (sample(1, 4, 11, 13),)


MERGES = (
    Merge("depthwise", chain, {"conv2d": 1}),
    Merge("depthwise in 3-D", lambda: chain(rank=3), {"conv3d": 1}),
    Merge("padded by its bias", padded_by_its_bias, {"conv2d": 1}),
)
REFUSALS = (Refusal("bias between", lambda: chain(bias=True), {"conv2d": 2}, "zero fill"),)
DEARER = (
    Dearer("dense", lambda: chain(channels=16, k=5, groups=1), {"conv2d": 2}),
    Dearer("dense in 3-D", lambda: chain(rank=3, channels=16, groups=1), {"conv3d": 3}),
)
