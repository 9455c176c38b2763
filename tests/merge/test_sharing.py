"""Shared modules and values: what stock fusions get wrong stays right, with the stock result beside.

torch.fx's own fuse folds a BatchNorm into a convolution that is used twice (pytorch #104593 and
kin); ExecuTorch 1.4.1's FuseBatchNormPass is wrong for one convolution under two BatchNorms (its
result is checked in tests/targets).
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.small import merged, randomize

pytestmark = pytest.mark.core
X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


class UsedTwice(nn.Module):
    """One convolution used twice, a BatchNorm on one use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.relu(self.norm(self.conv(x))))


class TwoReaders(nn.Module):
    """A convolution's output read by its BatchNorm and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return F.relu(self.norm(y)) + torch.sigmoid(y)


class TwoNorms(nn.Module):
    """One convolution under two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.a, self.b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return F.relu(self.a(y)), F.relu(self.b(y))


class SharedBlockTwoNorms(TwoNorms):
    """One convolution module called on two inputs, each with its own BatchNorm (a detection head)."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.relu(self.a(self.conv(x))), F.relu(self.b(self.conv(-x)))


@pytest.mark.parametrize(
    "module", [UsedTwice(), TwoReaders(), TwoNorms(), SharedBlockTwoNorms()], ids=lambda m: type(m).__name__
)
def test_sharing_stays_right(module: nn.Module) -> None:
    graph, _ = merged(randomize(module, 1), X)
    assert "aten.batch_norm.default" not in graph.histogram()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_torch_fx_fuse_is_wrong_where_we_are_right() -> None:
    from torch.fx.experimental import optimization

    module = randomize(UsedTwice(), 1)
    merged(module, X)
    fused = optimization.fuse(copy.deepcopy(module))
    with torch.no_grad():
        assert (fused(X) - module(X)).abs().max() > 1e-2  # a fix upstream turns this red: rejoice, delete


def test_names_that_flatten_alike_stay_apart() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.a_b = Inner(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.a.b(x)) + F.relu(self.a_b(2 * x))

    graph, _ = merged(randomize(Clash(), 2), X)
    assert len({n for n in graph.constants if n.endswith("weight") or "weight_" in n}) == 2


def test_a_root_sequential_gets_names_that_begin_with_a_letter() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    graph, _ = merged(randomize(module), X)
    assert all(n.name[0].isalpha() for n in graph.nodes())


def test_tied_weights_stay_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(F.relu(self.a(x)))

    graph, _ = merged(Tied(), torch.randn(2, 4))
    assert sum(c.tensor.dim() == 2 for c in graph.constants.values()) == 1


def test_a_branch_that_is_read_elsewhere_is_not_computed_twice() -> None:
    class Escapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.conv(x)
            return F.relu(y + self.norm(x)), torch.sigmoid(y)

    graph, _ = merged(randomize(Escapes(), 2), torch.randn(1, 32, 14, 14))
    assert sum(c.tensor.numel() >= 32 * 32 * 9 for c in graph.constants.values()) == 1
