"""Pools as kernels, branches of different kernels, and permutations of channels before groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.ir.graph import Graph
from compiler.merge import Exactness, Outcome
from tests.models.small import ConvNorm, Sum, merged, randomize

pytestmark = pytest.mark.core


class Cat(nn.Module):
    """The outputs of branches of one input, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([b(x) for b in self.branches], 1)


class Shuffled(nn.Module):
    """A layer on the channels in another order."""

    def __init__(self, order: tuple[int, ...], layer: nn.Module) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order))
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[:, self.order])


def image(channels: int = 4, height: int = 9, width: int = 11) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(4))


def counts(graph: Graph) -> dict[str, int]:
    return {op.split(".")[1]: n for op, n in graph.histogram().items()}


def conv(inside: int, outside: int, kernel: int | tuple[int, int], **options: object) -> nn.Module:
    """Return a convolution, drawn the same on every call."""
    torch.manual_seed(10 * inside + outside)
    return nn.Conv2d(inside, outside, kernel, **options)


POOLS: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "a divisor of its own, beside a kernel": (
        Sum(nn.AvgPool2d(3, 1, 1, divisor_override=4), conv(4, 4, 5, padding=2)),
        image(),
    ),
    "a divisor of its own, s2, before a point": (
        nn.Sequential(nn.AvgPool2d((3, 2), 2, 1, divisor_override=5), conv(4, 6, 1)),
        image(),
    ),
    "convolution and pool": (nn.Sequential(conv(4, 6, 3), nn.AvgPool2d(2)), image()),
    "padded convolution and pool": (
        nn.Sequential(conv(4, 6, 3, padding=1), nn.AvgPool2d((3, 2))),
        image(),
    ),
    "pool and convolution": (nn.Sequential(nn.AvgPool2d(2), conv(1, 1, 3)), image(1, 12, 14)),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_is_a_kernel(name: str) -> None:
    module, x = POOLS[name]
    graph, attempts = merged(randomize(module), x)
    assert counts(graph) == {"conv2d": 1}
    assert {a.exactness for a in attempts if a.outcome is Outcome.MERGED} == {Exactness.REAL}


def test_an_adaptive_pool_of_whole_windows_is_a_kernel() -> None:
    pool = nn.AdaptiveAvgPool2d((3, 4))
    graph, _ = merged(Sum(pool, conv(4, 4, (3, 2), stride=(3, 2))), image(4, 9, 8))
    assert counts(graph) == {"conv2d": 1}


def test_a_pool_rounded_up_to_where_it_ends_is_a_kernel() -> None:
    pool = nn.AvgPool2d(3, 2, ceil_mode=True)
    graph, _ = merged(Sum(pool, conv(4, 4, 3, stride=2)), image(4, 9, 11))
    assert counts(graph) == {"conv2d": 1}


@pytest.mark.parametrize(
    ("pool", "beside", "size"),
    [
        (nn.AvgPool2d(3, 2, ceil_mode=True), conv(4, 4, 3, stride=2, padding=1), 10),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(4, 4, 3, padding=1), 9),
        (nn.AdaptiveAvgPool2d(4), conv(4, 4, 3, stride=2), 9),
    ],
    ids=["windows cut off", "padding left out", "windows that overlap"],
)
def test_a_pool_whose_divisor_varies_is_no_kernel_and_lets_a_norm_through(
    pool: nn.Module, beside: nn.Module, size: int
) -> None:
    x = image(4, size, size)
    graph, _ = merged(Sum(pool, beside), x)
    assert counts(graph)["add"] == 1 and counts(graph)["conv2d"] == 1
    graph, _ = merged(randomize(nn.Sequential(nn.BatchNorm2d(4), pool, conv(4, 6, 1))), x)
    assert counts(graph).get("conv2d") == 1 and len(counts(graph)) == 2


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_branches_that_pad_alike_by_different_widths_are_one(mode: str) -> None:
    branches = (
        conv(4, 4, 3, padding=1, padding_mode=mode),
        conv(4, 4, (5, 7), padding=(2, 3), padding_mode=mode, bias=False),
        conv(4, 4, 3, padding=2, dilation=2, padding_mode=mode, groups=2),
        conv(4, 4, 1),
        nn.BatchNorm2d(4),
    )
    graph, _ = merged(randomize(Sum(*branches)), image())
    assert counts(graph) == {"pad": 1, "conv2d": 1}


def test_kernels_of_one_input_side_by_side_are_one() -> None:
    branches = (
        ConvNorm(4, 3, 1),
        ConvNorm(4, 2, 3, padding=1),
        ConvNorm(4, 5, (1, 3), padding=(0, 1)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvNorm(4, 3, 1)),
    )
    graph, _ = merged(randomize(Cat(*branches)), image())
    assert counts(graph) == {"conv2d": 1}


def test_kernels_side_by_side_stay_apart_where_the_zeros_between_cost_more() -> None:
    branches = ConvNorm(32, 64, 1), ConvNorm(32, 4, 7, padding=3)
    graph, attempts = merged(randomize(Cat(*branches)), image(32, 31, 33))
    assert counts(graph) == {"conv2d": 2, "cat": 1}
    assert any(a.outcome is Outcome.KEPT for a in attempts)


def group_widths(graph: Graph) -> tuple[int, ...]:
    """Return the inputs that one output of each convolution reads."""
    return tuple(c.tensor.shape[1] for c in graph.constants.values() if c.tensor.dim() == 4)


@pytest.mark.parametrize("groups", [2, 4])
def test_a_small_shuffle_before_a_grouped_convolution_goes_into_it(groups: int) -> None:
    module = nn.Sequential(nn.ChannelShuffle(groups), conv(8, 8, 3, groups=groups), nn.BatchNorm2d(8))
    graph, _ = merged(randomize(module), image(8))
    assert counts(graph) == {"conv2d": 1}
    assert group_widths(graph) == (8,)  # it mixes the groups


def test_a_large_shuffle_before_a_grouped_convolution_keeps_the_groups() -> None:
    module = nn.Sequential(nn.ChannelShuffle(4), conv(64, 64, 3, groups=4), nn.BatchNorm2d(64))
    graph, _ = merged(randomize(module), image(64, 31, 33))
    assert counts(graph) == {"channel_shuffle": 1, "conv2d": 1}
    assert group_widths(graph) == (16,)


def test_a_permutation_inside_the_groups_goes_into_them() -> None:
    generator = torch.Generator().manual_seed(5)
    order = torch.cat([16 * g + torch.randperm(16, generator=generator) for g in range(4)])
    graph, _ = merged(Shuffled(tuple(order.tolist()), conv(64, 64, 3, groups=4)), image(64, 31, 33))
    assert counts(graph) == {"conv2d": 1}
    assert group_widths(graph) == (16,)
