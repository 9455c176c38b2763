"""Model soups and POINTS: networks of one architecture averaged in their weights.

Averaging weights keeps no function (`edgewright average` does it, and measures): the engine must not
take an ensemble for a soup. Where the members are affine the mean of their outputs is one exact layer, of
the mean of the merged weights; that is not the merged mean, `mean(S_i W_i) != mean(S_i) mean(W_i)`, see
`test_soups.py`. Of low-rank members it is the products that are averaged, never the factors.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.25", "Model soups and POINTS", "arXiv 2203.05482, 2409.04828", "M5")


class ConvNorm(nn.Sequential):
    """A convolution and its BatchNorm, the ingredient of the soup."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))


class Ensemble(nn.Module):
    """The mean of its members' outputs, each after an activation, or before it."""

    def __init__(self, members: list[nn.Module], nonlinear: bool) -> None:
        super().__init__()
        self.members, self.nonlinear = nn.ModuleList(members), nonlinear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [m(x) for m in self.members]
        if self.nonlinear:
            return sum(F.relu(y) for y in outputs) / len(outputs)
        return F.relu(sum(outputs) / len(outputs))


class LowRank(nn.Module):
    """A base every member shares, and a member's own low-rank branch."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(12, 2, bias=False), nn.Linear(2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def ingredients() -> list[ConvNorm]:
    """Return two trained members."""
    return [scramble(ConvNorm(), seed) for seed in (0, 1)]


def souped(members: list[ConvNorm]) -> ConvNorm:
    """Return the uniform soup of the train forms; counters of integers are kept, not averaged."""
    soup = copy.deepcopy(members[0])
    states = [m.state_dict() for m in members]
    for name, value in soup.state_dict().items():
        if value.is_floating_point():
            value.copy_(sum(s[name] for s in states) / len(states))
    return soup


def image(module: nn.Module) -> Built:
    return module, (sample(2, 6, 11, 13),)


def adapted() -> Built:
    base = nn.Linear(12, 10)
    return scramble(Ensemble([LowRank(base), LowRank(base)], nonlinear=False)), (sample(2, 5, 12),)


MERGES = (
    Merge("a soup, then merged", lambda: image(souped(ingredients())), {"conv2d": 1}),
    Merge("mean of affine members", lambda: image(Ensemble(ingredients(), False)), {"conv2d": 1, "relu": 1}),
    Merge("mean of low-rank members", adapted, {"linear": 1, "relu": 1}),
)
REFUSALS = (
    Refusal(
        "mean of nonlinear members",
        lambda: image(Ensemble(ingredients(), True)),
        {"conv2d": 2, "relu": 2},
        reason="relu is not affine",
        node="relu",
    ),
)
