"""Published train-form blocks come out of the algebra; no test here names one to the compiler."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.cost.roofline import Roofline
from compiler.merge import merge
from tests.models.small import ConvNorm, Sum, compile_graph, error, merged, randomize

pytestmark = pytest.mark.core
X = torch.randn(2, 8, 11, 13, generator=torch.Generator().manual_seed(0))


def rep_vgg(groups: int, stride: int) -> nn.Module:
    """RepVGG, arXiv 2101.03697."""
    branches = [
        ConvNorm(8, 8, 3, padding=1, stride=stride, groups=groups),
        ConvNorm(8, 8, 1, stride=stride, groups=groups),
    ]
    return Sum(*branches, *([nn.BatchNorm2d(8)] if stride == 1 else []))


def mobile_one(groups: int, stride: int) -> nn.Module:
    """MobileOne, arXiv 2206.04040: several copies of the large branch."""
    copies = [ConvNorm(8, 8, 3, padding=1, stride=stride, groups=groups) for _ in range(4)]
    return Sum(*copies, rep_vgg(groups, stride))


class AsymmetricBlock(nn.Module):
    """ACNet: k x k, 1 x k and k x 1, the 1-D branches on a cropped input."""

    def __init__(self, crop: bool, stride: int) -> None:
        super().__init__()
        self.crop = crop
        pads = [(0, 0)] * 3 if crop else [(1, 1), (0, 1), (1, 0)]
        kernels = [(3, 3), (1, 3), (3, 1)]
        parts = [ConvNorm(8, 8, k, padding=p, stride=stride) for k, p in zip(kernels, pads, strict=True)]
        self.square, self.row, self.column = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row, column = (x[:, :, 1:-1, :], x[:, :, :, 1:-1]) if self.crop else (x, x)
        return self.square(x) + self.row(row) + self.column(column)


class RepMixer(nn.Module):
    """FastViT's token mixer: x + scale * (mixer(x) - norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.norm = mobile_one(8, 1), nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * (self.mixer(x) - self.norm(x))


class DilatedBranches(nn.Module):
    """UniRepLKNet: a large depthwise kernel beside dilated small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.large = ConvNorm(8, 8, 7, padding=3, groups=8)
        dilated = [(3, 1), (3, 2), (3, 3), (5, 1)]
        self.small = nn.ModuleList(
            ConvNorm(8, 8, k, padding=d * (k // 2), dilation=d, groups=8) for k, d in dilated
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.large(x) + sum(s(x) for s in self.small)


class MixedOrder(nn.Module):
    """A foreign term between two mergeable branches hides them behind the order of additions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (ConvNorm(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + F.relu(self.c(x)) + self.b(x)


BLOCKS = {
    **{f"rep_vgg_g{g}_s{s}": rep_vgg(g, s) for g in (1, 4, 8) for s in (1, 2)},
    **{f"mobile_one_g{g}_s{s}": mobile_one(g, s) for g in (1, 8) for s in (1, 2)},
    **{f"acnet_crop{int(c)}_s{s}": AsymmetricBlock(c, s) for c in (False, True) for s in (1, 2)},
    "rep_mixer": RepMixer(),
    "dilated_branches": DilatedBranches(),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_becomes_one_convolution(name: str) -> None:
    graph, attempts = merged(randomize(BLOCKS[name]), X)
    assert graph.histogram() == {"aten.conv2d.default": 1}
    assert attempts[0].outcome == "merged"


def test_float32_error_is_rounding() -> None:
    module = randomize(rep_vgg(1, 1))
    graph, _ = merge(compile_graph(module, X))
    assert error(graph, module, [X]) < 1e-6


def test_order_of_additions_does_not_hide_branches() -> None:
    graph, _ = merged(randomize(MixedOrder()), X)
    assert graph.histogram() == {"aten.conv2d.default": 2, "aten.relu.default": 1, "aten.add.Tensor": 1}


def test_two_heads_averaged_become_one_linear() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.BatchNorm1d(8), nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x)
            return (self.a(x) + self.b(x)) / 2

    graph, _ = merged(randomize(Heads()), torch.randn(3, 8))
    assert graph.histogram() == {"aten.linear.default": 1}


def test_batch_norm_read_by_two_convolutions_is_absorbed_by_both() -> None:
    class Fan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.norm(x)
            return F.relu(self.a(x)), F.relu(self.b(x))

    graph, _ = merged(randomize(Fan()), X)
    assert graph.histogram() == {"aten.conv2d.default": 2, "aten.relu.default": 2}


def test_price_decides_a_bottleneck_both_ways() -> None:
    module = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1))
    graph = compile_graph(module, torch.randn(1, 16, 32, 32))
    launches = merge(graph, prior=Roofline(macs_per_byte=0.01, launch_macs=1e9))[0]
    arithmetic = merge(
        compile_graph(nn.Sequential(nn.Conv2d(64, 4, 1), nn.Conv2d(4, 64, 1)), torch.randn(1, 64, 32, 32)),
        prior=Roofline(macs_per_byte=0.01, launch_macs=0.0),
    )[0]
    assert launches.histogram()["aten.conv2d.default"] == 1
    assert arithmetic.histogram()["aten.conv2d.default"] == 2
