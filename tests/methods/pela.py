"""PELA: each linear layer as two of rank r, which stay two.

The dense product is exact and costs `in out / (r (in + out))` times the arithmetic. What is affine beside the
pair folds into it: a LayerNorm's affine into the first, a BatchNorm or a layer scale into the second. Of two
pairs in a row the inner product `r1 -> r2` is small, and vanishes into its neighbour.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method

METHOD = Method("2.29", "PELA low rank", "arXiv 2310.10700", "M2")


class Scale(nn.Module):
    """A layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


def pair(rank: int) -> list[nn.Module]:
    return [nn.Linear(64, rank, bias=False), nn.Linear(rank, 64)]


def tokens(*parts: nn.Module) -> Built:
    return scramble(nn.Sequential(*parts)), (sample(2, 512, 64),)


def rows(*parts: nn.Module) -> Built:
    return scramble(nn.Sequential(*parts)), (sample(1024, 64),)


MERGES = (
    Merge(
        "LayerNorm before, scale after",
        lambda: tokens(nn.LayerNorm(64), *pair(8), Scale(64)),
        {"layer_norm": 1, "linear": 2},
        settings={"constants": 4},
    ),
    Merge(
        "BatchNorm on both sides",
        lambda: rows(nn.BatchNorm1d(64), *pair(8), nn.BatchNorm1d(64)),
        {"linear": 2},
    ),
    Merge(
        "two pairs",
        lambda: tokens(*pair(8), *pair(6)),
        {"linear": 2},
        settings={"macs": 1024 * 6 * (64 + 64)},
    ),
)
DEARER = (Dearer("one pair", lambda: tokens(*pair(8)), {"linear": 2}, node="linear"),)
