"""LayerNorm written in parts is named; what only resembles one is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.models.graphs import ops, relative_error, through_passes

pytestmark = pytest.mark.core

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0)) * 4 + 1
Function = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A function of a linear layer, with constants as exporters store them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear, self.function = nn.Linear(6, 6), function
        self.w, self.b = nn.Parameter(torch.rand(6) + 0.5), nn.Parameter(torch.randn(6))
        self.register_buffer("two", torch.tensor(2.0))
        self.register_buffer("eps", torch.tensor([1e-6]))
        self.register_buffer("row", torch.randn(1, 1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, self.linear(x))


def mean(x: torch.Tensor, axes: int | tuple[int, ...] = -1) -> torch.Tensor:
    return x.mean(axes, keepdim=True)


def exported(m: Net, x: torch.Tensor) -> torch.Tensor:
    """As torch's exporter for opsets below 17 writes it."""
    d = x - mean(x)
    return d / torch.sqrt(mean(d.pow(m.two)) + m.eps) * m.w + m.b


def by_squares(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.w * ((x - mean(x)) * torch.rsqrt(mean(x * x) - mean(x) ** 2 + 1e-5)) + m.b


def by_variance(m: Net, x: torch.Tensor) -> torch.Tensor:
    v, average = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - average) / (v + 1e-5).sqrt() * m.row + m.row


def bare(m: Net, x: torch.Tensor) -> torch.Tensor:
    d = x - mean(x, (1, 2))
    return d / torch.sqrt(mean(d * d, (1, 2)) + 1e-3)


WRITTEN = {f.__name__: f for f in (exported, by_squares, by_variance, bare)}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_spelled_layer_norm_is_one_operation(name: str) -> None:
    net = Net(WRITTEN[name]).eval()
    graph = through_passes(net, X)
    assert ops(graph) == ["linear", "layer_norm"]
    assert relative_error(graph, net, [X]) < 1e-12


OTHERS: dict[str, Function] = {
    "an unbiased variance": lambda m, x: (x - mean(x)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
    "eps outside of the root": lambda m, x: (x - mean(x)) / (mean((x - mean(x)) ** 2).sqrt() + 1e-3),
    "means over other axes": lambda m, x: (x - mean(x)) / (mean((x - mean(x)) ** 2, 1) + 1e-5).sqrt(),
    "the mean square": lambda m, x: x / (mean(x * x) + 1e-5).sqrt(),
    "a factor inside": lambda m, x: (x - mean(x)) * (m.w / (mean((x - mean(x)) ** 2) + 1e-5).sqrt()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_resembles_one_is_left(name: str) -> None:
    net = Net(OTHERS[name]).eval()
    graph = through_passes(net, X)
    assert "layer_norm" not in ops(graph)
    assert relative_error(graph, net, [X]) < 1e-12


def test_a_summand_of_the_rows_is_no_bias() -> None:
    net = Net(
        lambda m, x: (x - mean(x)) / (mean((x - mean(x)) ** 2) + 1e-5).sqrt() * m.w + m.linear(x)
    ).eval()
    graph = through_passes(net, X)
    assert ops(graph).count("layer_norm") == 1 and "add" in ops(graph)
    assert relative_error(graph, net, [X]) < 1e-12
