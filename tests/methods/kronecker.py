"""PHM and PHC: a weight built as a sum of Kronecker products every forward is one constant.

`W[(a, c), (b, d)] = sum_i A_i[a, b] F_i[c, d]`. The product is a weight-only subgraph: multiply-accumulates
are those of the dense layer in both forms, so that time never speaks against folding. What grows, about n times,
is the file: a runtime that computes weights when it loads a program keeps the factors.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method

METHOD = Method("2.15", "PHM and PHC Kronecker layers", "arXiv 2110.04176", "M1")


class Kronecker(nn.Module):
    """A linear layer, or a k x k convolution, whose weight is `n` Kronecker products."""

    def __init__(self, inside: int, outside: int, n: int, *kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(n, n, n))
        self.right = nn.Parameter(torch.empty(n, outside // n, inside // n, *kernel))
        # The reference convolution defines a bias and never passes it on.
        self.bias = nn.Parameter(torch.empty(outside))
        self.shape, self.biased = (outside, inside, *kernel), bias

    def weight(self) -> torch.Tensor:
        n, kernel = self.left.shape[0], self.shape[2:]
        left = self.left.reshape(n, n, 1, n, 1, *(1,) * len(kernel))
        return (left * self.right[:, None, :, None]).sum(0).reshape(self.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.bias if self.biased else None
        if len(self.shape) == 2:
            return F.linear(x, self.weight(), bias)
        return F.conv2d(x, self.weight(), bias, stride=2, padding=1)


class Stack(nn.Module):
    """Convolution, BatchNorm, ReLU, mean over positions, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = Kronecker(8, 12, 4, 3, 3, bias=False), nn.BatchNorm2d(12)
        self.head = Kronecker(12, 6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def linear() -> Built:
    return scramble(Kronecker(9, 15, 3)), (sample(5, 7, 9),)


def image(module: nn.Module) -> Built:
    return scramble(module), (sample(2, 8, 11, 13),)


MERGES = (
    Merge("linear", linear, {"linear": 1}, folds=True),
    Merge("conv", lambda: image(Kronecker(8, 12, 4, 3, 3)), {"conv2d": 1}, folds=True),
    Merge(
        "conv that drops its bias",
        lambda: image(Kronecker(8, 12, 4, 3, 3, bias=False)),
        {"conv2d": 1},
        folds=True,
    ),
    Merge(
        "conv, BatchNorm, ReLU, head",
        lambda: image(Stack()),
        {"conv2d": 1, "relu": 1, "mean": 1, "linear": 1},
    ),
)
DEARER = (
    Dearer(
        "the file would grow fourfold, and the runtime folds at load",
        lambda: (scramble(Kronecker(512, 512, 4)), (sample(1, 512),)),
        {"mul": 1, "sum": 1, "linear": 1},
        reason="the generator is much smaller, and the runtime runs it once, at load",
        settings={"load_time": True},
    ),
)
