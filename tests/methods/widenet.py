"""WideNet: attention and FFN weights shared by all blocks, LayerNorms of their own.

A shared tensor is stored once. Folding the affine of a private LayerNorm into it would make a copy for each
block, so that it stays; a LayerNorm that is shared itself folds, once.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.26", "WideNet shared parameters", "arXiv 2107.11817", "M8")


class WideNet(nn.Module):
    """Pre-norm blocks `x + W2 gelu(W1 LN_i(x))`; W1 and W2 are one, `norms` of them are private."""

    def __init__(self, blocks: int, norms: int, affine: bool, twice: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(48, elementwise_affine=affine) for _ in range(norms))
        self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)
        self.blocks = blocks
        # The other way to share: two modules, one tensor.
        self.again = nn.Linear(48, 96) if twice else self.up
        self.again.weight, self.again.bias = self.up.weight, self.up.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.blocks):
            up = self.again if i % 2 else self.up
            x = x + self.down(F.gelu(up(self.norms[i % len(self.norms)](x))))
        return x


class Attention(nn.Module):
    """Pre-norm blocks of one attention, each with a LayerNorm of its own, or all with one without an affine."""

    def __init__(self, blocks: int, private: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            nn.LayerNorm(48, elementwise_affine=private) for _ in range(blocks if private else 1)
        )
        self.maps, self.project = nn.ModuleList(nn.Linear(48, 48) for _ in range(3)), nn.Linear(48, 48)
        self.blocks = blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.blocks):
            y = self.norms[i % len(self.norms)](x)
            q, k, v = (m(y).unflatten(-1, (3, 16)).transpose(1, 2) for m in self.maps)
            x = x + self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x


def attention(private: bool) -> Built:
    return scramble(Attention(2, private)), (sample(2, 5, 48),)


def stack(norms: int, blocks: int = 2, affine: bool = True, twice: bool = False) -> Built:
    return scramble(WideNet(blocks, norms, affine, twice)), (sample(2, 5, 48),)


def after(blocks: int) -> dict[str, int]:
    return {"layer_norm": blocks, "linear": 2 * blocks, "gelu": blocks, "add": blocks}


ATTENTION = {"layer_norm": 2, "linear": 8, "permute": 8, "scaled_dot_product_attention": 2, "add": 2}

# Two weights and two biases, whatever the number of blocks; each private LayerNorm has a scale and a shift.
MERGES = (
    Merge(
        "weights stored once",
        lambda: stack(1, affine=False),
        after(2),
        settings={"constants": 4},
        folds=True,
    ),
    Merge(
        "one tensor in two modules",
        lambda: stack(1, affine=False, twice=True),
        after(2),
        settings={"constants": 4},
        folds=True,
    ),
    Merge(
        "three blocks",
        lambda: stack(1, blocks=3, affine=False),
        after(3),
        settings={"constants": 4},
        folds=True,
    ),
    Merge(
        "attention stored once", lambda: attention(False), ATTENTION, settings={"constants": 8}, folds=True
    ),
    Merge(
        "LayerNorm shared too",
        lambda: stack(1),
        after(2),
        settings={"constants": 4},
    ),
)
REFUSALS = (
    Refusal("attention under private LayerNorms", lambda: attention(True), ATTENTION, "un-shares",
            settings={"constants": 12}),
    Refusal("private LayerNorms", lambda: stack(2), after(2), "un-shares", settings={"constants": 8}),
    Refusal("private LayerNorms, one tensor in two modules", lambda: stack(2, twice=True), after(2), "un-shares",
            settings={"constants": 8}),
)  # fmt: skip
