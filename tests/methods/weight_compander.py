"""Weight Compander: each weight is `a arctan(v / b)` of parameters, and folds to a plain layer.

It does not while a or b still move: a mean of them that the model keeps from call to call is state, and what
is computed from state is no constant.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal
from tests.models.small import Sum

METHOD = Method("2.14", "Weight Compander", "arXiv 2306.16993", "M1")


class Companded(nn.Module):
    """A linear map or a convolution with weights `a arctan(v / b)`; with `moving` b is a running mean."""

    def __init__(self, *shape: int, groups: int = 1, moving: bool = False) -> None:
        super().__init__()
        scales = (shape[0], *(1,) * (len(shape) - 1))
        self.v, self.a = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(scales))
        generator = torch.Generator().manual_seed(17)
        self.register_buffer("target", torch.rand(scales, generator=generator) + 0.3)
        b = torch.rand(scales, generator=generator) + 0.3
        if moving:
            self.register_buffer("b", b)
        else:
            self.b = nn.Parameter(b)
        self.groups, self.moving = groups, moving

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.moving:
            self.b.copy_(0.9 * self.b + 0.1 * self.target)
        weight = self.a * torch.atan(self.v / self.b)
        if weight.dim() == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=self.groups)


def block(module: nn.Module, *size: int) -> Built:
    """Return a module and an input."""
    generator = torch.Generator().manual_seed(16)
    return scramble(module), (torch.randn(size, generator=generator),)


def with_norm(*branches: nn.Module) -> Built:
    """Return the sum of branches and its BatchNorm, on an image with odd sizes."""
    return block(nn.Sequential(Sum(*branches), nn.BatchNorm2d(8)), 2, 8, 11, 13)


MERGES = (
    Merge("linear", lambda: block(Companded(12, 8), 3, 8), {"linear": 1}, folds=True),
    Merge("convolution and norm", lambda: with_norm(Companded(8, 8, 3, 3)), {"conv2d": 1}),
    Merge(
        "two branches, grouped",
        lambda: with_norm(Companded(8, 4, 3, 3, groups=2), Companded(8, 4, 1, 1, groups=2)),
        {"conv2d": 1},
    ),
)
REFUSALS = (
    Refusal(
        "a moving mean",
        lambda: block(Companded(12, 8, moving=True), 3, 8),
        {"atan": 1, "linear": 1},
        "state 'b'",
        "b",
    ),
)
