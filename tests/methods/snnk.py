"""SNNK: a layer `f(W x + b)` trained as `Phi(x) Psi(W, b)^T`, Phi a fixed random feature map.

Psi reads parameters only, so that it is a constant matrix, and the linear layer after it composes with
it: bundling. Scales and shifts around Phi fold as well. Where Phi has more features than the layer is
wide, the product is the larger matrix and the two stay apart.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method

METHOD = Method("2.19", "SNNK and bundling", "arXiv 2310.13225", "M1+M2")


class SNNK(nn.Module):
    """One layer of `width` neurons on `features` random features."""

    def __init__(self, inside: int, width: int, features: int, positive: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, inside))
        self.bias = nn.Parameter(torch.empty(width))
        self.register_buffer("directions", sample(inside, features) * inside**-0.5)
        self.register_buffer("phases", sample(features, seed=3))
        self.positive = positive

    def psi(self) -> torch.Tensor:
        """Return the parameters' features, [width, features]."""
        return (
            torch.tanh(self.weight @ self.directions + self.bias[:, None]) * self.bias.abs()[:, None].sqrt()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected = x @ self.directions
        if self.positive:
            phi = torch.exp(0.1 * projected - 0.05 * self.phases)
        else:
            phi = math.sqrt(2) * torch.cos(projected + self.phases)
        return (phi / math.sqrt(self.directions.shape[1])) @ self.psi().mT


def bundle(
    inside: int, width: int, outside: int, features: int, rows: int = 5, positive: bool = False
) -> Built:
    """Return a layer and the linear layer after it, on [2, rows, inside]."""
    module = nn.Sequential(SNNK(inside, width, features, positive), nn.Linear(width, outside))
    return scramble(module), (sample(2, rows, inside),)


def deep() -> Built:
    """Return two layers: between them only features are left."""
    module = nn.Sequential(SNNK(9, 12, 7), SNNK(12, 10, 6, positive=True), nn.Linear(10, 3))
    return scramble(module), (sample(2, 5, 9),)


MERGES = (
    Merge("cosine features", lambda: bundle(9, 12, 7, 8), {"linear": 2, "cos": 1}),
    Merge("positive features", lambda: bundle(9, 12, 7, 8, positive=True), {"linear": 2, "exp": 1}),
    Merge("two layers", deep, {"linear": 3, "cos": 1, "exp": 1}),
)
DEARER = (
    Dearer(
        "more features than neurons",
        lambda: bundle(16, 16, 256, 256, rows=128),
        {"linear": 3, "cos": 1},
        node="linear",
    ),
)
