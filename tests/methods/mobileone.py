"""MobileOne: n equal k×k branches, a 1×1 branch and a BatchNorm skip become one k×k.

Depthwise and pointwise blocks alternate. They do not compose: a ReLU is between, and without it the dense
k×k would cost `k² C Co` where the pair costs `C (k² + Co)`.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.methods.judge import scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal
from tests.models.small import ConvNorm, Sum

METHOD = Method("2.4", "MobileOne", "arXiv 2206.04040", "M2+M3")


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def branches(c: int, out: int, k: int = 3, s: int = 1, g: int = 1, n: int = 4) -> Sum:
    """Return n k×k branches, the 1×1 branch where k > 1, and the skip where the shapes match."""
    parts: list[nn.Module] = [ConvNorm(c, out, k, stride=s, padding=k // 2, groups=g) for _ in range(n)]
    parts += [ConvNorm(c, out, 1, stride=s, groups=g)] if k > 1 else []
    parts += [nn.BatchNorm2d(c)] if c == out and s == 1 else []
    return Sum(*parts)


def block(*parts: nn.Module, size: tuple[int, ...] = (2, 8, 11, 13)) -> Built:
    """Return parts in a row and an input with odd sizes."""
    generator = torch.Generator().manual_seed(5)
    return scramble(nn.Sequential(*parts)), (torch.randn(size, generator=generator),)


def pair(between: nn.Module, s: int = 1, out: int = 8, n: int = 4) -> Built:
    """Return a depthwise and a pointwise block with something between."""
    return block(branches(8, 8, s=s, g=8, n=n), between, branches(8, out, 1, n=n), nn.ReLU())


def wide() -> Built:
    """Return a depthwise and a pointwise block without a ReLU between, at 64 channels."""
    return block(branches(64, 64, g=64, n=2), branches(64, 64, 1, n=2), size=(1, 64, 15, 17))


TWO = {"conv2d": 2, "relu": 2}
MERGES = (
    Merge("depthwise and pointwise", lambda: pair(nn.ReLU()), TWO),
    Merge("s2, wider", lambda: pair(nn.ReLU(), s=2, out=12), TWO),
    Merge("n1", lambda: pair(nn.ReLU(), n=1), TWO),
    Merge("k5, dense, n3", lambda: block(branches(8, 8, 5, n=3), nn.ReLU()), {"conv2d": 1, "relu": 1}),
    Merge(
        "SE after each sum",
        lambda: block(branches(8, 8, g=8), Gate(8), nn.ReLU(), branches(8, 8, 1), Gate(8), nn.ReLU()),
        {"conv2d": 6, "relu": 4, "mean": 2, "sigmoid": 2, "mul": 2},
    ),
)
REFUSALS = (
    Refusal(
        "a ReLU between depthwise and pointwise",
        lambda: pair(nn.ReLU()),
        TWO,
        reason="relu is not affine",
        node="relu",
    ),
)
DEARER = (Dearer("depthwise then pointwise", wide, {"conv2d": 2}, node="conv2d"),)
