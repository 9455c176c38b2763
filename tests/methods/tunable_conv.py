"""Tunable convolutions: a kernel mixed from n by parameters omega that a user turns.

`y = sum_i a_i (K_i * x + b_i)`, `a = softmax(A omega)`. With omega fixed everything but the data is
constant. With omega an input the kernels are mixed, once, and convolved with, once (M6): n convolutions
cost n times as much, and only on a map of a few positions is mixing the dearer of the two.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

METHOD = Method("2.17", "Tunable convolutions", "arXiv 2304.00898", "M4, M1, M6")
OMEGA = torch.tensor([[0.3, -1.2]])


class Tunable(nn.Module):
    """`n` kernels and biases mixed by omega, [1, 2] or one row a sample: before the convolution, or after."""

    def __init__(self, n: int, channels: int, padding: int, mix_first: bool, norm: bool) -> None:
        super().__init__()
        self.coefficients = nn.Linear(2, n)
        self.kernels = nn.Parameter(torch.empty(n, channels, channels, 3, 3))
        self.biases = nn.Parameter(torch.empty(n, channels))
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.padding, self.mix_first = padding, mix_first

    def forward(self, x: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        mix = self.coefficients(omega).softmax(-1)
        if self.mix_first:
            kernel = (mix.reshape(-1, 1, 1, 1, 1) * self.kernels).sum(0)
            y = F.conv2d(x, kernel, (mix.reshape(-1, 1) * self.biases).sum(0), padding=self.padding)
        else:
            parts = zip(self.kernels, self.biases, strict=True)
            convs = [F.conv2d(x, k, b, padding=self.padding) for k, b in parts]
            y = sum(mix[:, i, None, None, None] * c for i, c in enumerate(convs))
        return F.relu(self.norm(y))


def layer(
    mix_first: bool, rows: int = 1, n: int = 3, channels: int = 8, size: int = 15, padding: int = 1, norm: bool = False
) -> Built:  # fmt: skip
    """Return a layer of 3x3 kernels on a `size` x `size` input, and `rows` settings of omega."""
    module = scramble(Tunable(n, channels, padding, mix_first, norm))
    return module, (sample(2, channels, size, size), sample(rows, 2, seed=3))


# The coefficients, the mixed kernel and the mixed bias; and one convolution.
MIXED = {"linear": 3, "softmax": 1, "conv2d": 1, "relu": 1}
FROZEN = {"freeze": {"omega": OMEGA}}

MERGES = (
    Merge("omega fixed", lambda: layer(True, norm=True), {"conv2d": 1, "relu": 1}, settings=FROZEN),
    Merge(
        "omega fixed, n convolutions",
        lambda: layer(False, norm=True),
        {"conv2d": 1, "relu": 1},
        settings=FROZEN,
    ),
    Merge("omega an input", lambda: layer(True), MIXED),
    Merge("omega an input, n convolutions", lambda: layer(False), MIXED),
    # One kernel a sample: a convolution of as many groups as samples.
    Merge("omega of each sample, n convolutions", lambda: layer(False, rows=2), MIXED),
)
REFUSALS = (
    Refusal(
        "omega stays adjustable",
        lambda: layer(True),
        {"softmax": 1, "conv2d": 1},
        "depends on the input 'omega'",
        "omega",
    ),
)
DEARER = (
    Dearer(
        "mixing for a map of one position",
        lambda: layer(False, n=2, channels=64, size=3, padding=0),
        {"conv2d": 2, "softmax": 1},
        "mixing 2 kernels first costs",
        "add",
    ),
)
