"""The reference net of small checks: a residual MLP on scikit-learn's digits, trained in seconds.

Features are standardised with 0.1 added to the deviation; 900 images train, 400 calibrate, 497 test.
Width 48, 8 blocks `h + V relu(U h + a) + c` of 64 hidden units; Adam with a rate falling to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from compiler.ir.graph import Graph
from tests.models.small import compile_graph

STEPS = 400


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(48, 64), nn.Linear(64, 48)
        nn.init.normal_(self.u.weight, std=(2 / 48) ** 0.5)
        nn.init.normal_(self.v.weight, std=0.35 / 8)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.v(torch.relu(self.u(h)))


class DigitsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 48), nn.Linear(48, 10)
        self.blocks = nn.Sequential(*(Block() for _ in range(8)))
        nn.init.normal_(self.stem.weight, std=1 / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))


@dataclass(frozen=True)
class Digits:
    """The trained graph for `batch` images a call, calibration calls, and a held-out test set."""

    graph: Graph
    net: nn.Module
    calibration: torch.Tensor
    test: torch.Tensor
    labels: torch.Tensor

    def calls(self, count: int = 400) -> list[tuple[torch.Tensor]]:
        """Return calibration images in calls of the graph's batch."""
        return [(x,) for x in self.calibration[:count].split(100)]

    def tests(self) -> list[tuple[torch.Tensor]]:
        """Return test images in whole calls."""
        return [(x,) for x in self.test[:400].split(100)]


@cache
def digits(seed: int = 0, steps: int = STEPS) -> Digits:
    """Train and return the net; the same seed gives the same net."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    x, y = torch.tensor(images, dtype=torch.float32)[order], torch.tensor(labels)[order]
    x = (x - x[:900].mean(0)) / (x[:900].std(0) + 0.1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _trained(DigitsNet(), x[:900], y[:900], generator, steps)
    graph = compile_graph(net, x[:100])
    return Digits(graph, net, x[900:1300], x[1300:], y[1300:])


def _trained(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator, steps: int
) -> nn.Module:
    adam = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        adam.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        adam.step()
        rate.step()
    return net.eval()
