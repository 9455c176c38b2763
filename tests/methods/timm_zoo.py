"""The re-parameterisations of timm: branch sums under a norm or a scale, norms before and around linear maps.

RepViT (a BatchNorm after the sum), RepMixer (a subtracted branch under a layer scale), conditional
positional encoding, FastViT (large and small kernel, strided), EfficientViT, LeViT (BatchNorm heads, the
mean of two of them) and Next-ViT (a per-channel affine map commutes with a mean).
"""

from __future__ import annotations

import torch
from torch import nn

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal
from tests.models.small import ConvNorm, Sum

METHOD = Method("2.5", "timm re-parameterisation zoo", "timm 1.0", "M2+M3")


class RepMixer(nn.Module):
    """x + γ (mixer(x) - norm(x)), both of them depthwise MobileOne blocks."""

    def __init__(self, c: int, k: int = 3) -> None:
        super().__init__()
        self.mixer = Sum(
            ConvNorm(c, c, k, padding=k // 2, groups=c), ConvNorm(c, c, 1, groups=c), nn.BatchNorm2d(c)
        )
        self.norm = nn.BatchNorm2d(c)
        self.gamma = nn.Parameter(torch.ones(c, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gamma * (self.mixer(x) - self.norm(x))


class DropPath(nn.Module):
    """Stochastic depth as it is in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype).bernoulli(0.9) / 0.9


class Gate(nn.Module):
    """Squeeze and excite, without the bottleneck."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.excite = nn.Conv2d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.excite(x.mean((2, 3), keepdim=True)).sigmoid()


class Transpose(nn.Module):
    """[B, C, N] to [B, N, C]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class GlobalMean(nn.Module):
    """The mean over the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Heads(nn.Module):
    """The mean of a class head and a distillation head, a BatchNorm before each."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 10)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.heads[0](x) + self.heads[1](x)) / 2


def block(*parts: nn.Module, size: tuple[int, ...] = (2, 8, 11, 13)) -> Built:
    """Return parts in a row, and an input with odd sizes."""
    generator = torch.Generator().manual_seed(6)
    return scramble(nn.Sequential(*parts)), (torch.randn(size, generator=generator),)


def residual(*branch: nn.Module) -> Built:
    """Return x + branch(x)."""
    return block(Sum(nn.Identity(), nn.Sequential(*branch)))


def depthwise(k: int = 3) -> nn.Module:
    """Return a depthwise convolution and its BatchNorm."""
    return ConvNorm(8, 8, k, padding=k // 2, groups=8)


def repvit() -> Built:
    """Return BN(conv_bn(x) + dw1x1(x) + x)."""
    return block(Sum(depthwise(), nn.Conv2d(8, 8, 1, groups=8), nn.Identity()), nn.BatchNorm2d(8))


def large_and_small() -> Built:
    """Return FastViT's strided patch embedding: 7×7 and 3×3, twice as many channels."""
    parts = [ConvNorm(8, 16, k, stride=2, padding=k // 2, groups=8) for k in (7, 3)]
    return block(Sum(*parts), nn.GELU())


def next_vit() -> Built:
    """Return the keys of Next-ViT: BN, pool over tokens, BN, linear, at sizes where the pool stays apart."""
    parts = (nn.BatchNorm1d(96), nn.AvgPool1d(4), nn.BatchNorm1d(96), Transpose(), nn.Linear(96, 128))
    return block(*parts, size=(2, 96, 196))


MERGES = (
    Merge("RepViT, a norm after the sum", repvit, {"conv2d": 1}),
    Merge("RepMixer, a subtracted branch", lambda: block(RepMixer(8)), {"conv2d": 1}),
    Merge("RepMixer k7", lambda: block(RepMixer(8, 7)), {"conv2d": 1}),
    Merge("positional encoding", lambda: residual(nn.Conv2d(8, 8, 7, padding=3, groups=8)), {"conv2d": 1}),
    Merge("large and small kernel, s2", large_and_small, {"conv2d": 1, "gelu": 1}),
    Merge("norm before 1x1", lambda: block(nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1)), {"conv2d": 1}),
    Merge(
        "norm before flatten and linear",
        lambda: block(nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 15, 10), size=(2, 8, 3, 5)),
        {"linear": 1},
    ),
    Merge("norm head", lambda: block(nn.BatchNorm1d(8), nn.Linear(8, 10), size=(3, 8)), {"linear": 1}),
    Merge("mean of two heads", lambda: block(Heads(), size=(3, 8)), {"linear": 1}),
    Merge(
        "norm, global mean, norm, linear",
        lambda: block(nn.BatchNorm2d(8), GlobalMean(), nn.BatchNorm1d(8), nn.Linear(8, 10)),
        {"mean": 1, "linear": 1},
    ),
    # The scale folds; of the shift the border reads only a part, so an addition stays in front.
    Merge(
        "norm before a padded 3x3",
        lambda: block(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)),
        {"add": 1, "conv2d": 1},
    ),
    Merge("Next-ViT, norm, pool, norm, linear", next_vit, {"avg_pool1d": 1, "permute": 1, "linear": 1}),
)
REFUSALS = (
    Refusal(
        "a norm's shift before a padded 3x3",
        lambda: block(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)),
        {"add": 1, "conv2d": 1},
        "shift before zero fill",
        "conv2d",
    ),
    Refusal("drop path", lambda: residual(depthwise(), DropPath()), {}, "random"),
    Refusal(
        "an activation before the sum",
        lambda: residual(depthwise(), nn.ReLU()),
        {"conv2d": 1, "relu": 1, "add": 1},
        reason="relu is not affine",
        node="relu",
    ),
    Refusal(
        "SE before the sum",
        lambda: residual(depthwise(), Gate(8)),
        {"conv2d": 2, "sigmoid": 1, "add": 1},
        "which cannot absorb it",
        "mul",
    ),
)
