"""Weights are computed in float64 and stored once: tiny variances, and ranges that end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.errors import NumericError
from compiler.evaluate import evaluate
from compiler.merge import merge
from tests.models.small import compile_graph, merged, randomize

pytestmark = pytest.mark.core
X = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(6))


def amplified(variance: float) -> nn.Module:
    """Return convolution, BatchNorm of a tiny variance, point convolution."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, eps=1e-14)
    module = randomize(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, nn.Conv2d(4, 6, 1)))
    norm.running_var.mul_(variance)
    return module


def test_a_tiny_variance_is_folded_in_float64() -> None:
    graph, _ = merged(amplified(1e-10), X)  # within 1e-9 of the module
    assert graph.histogram() == {"aten.conv2d.default": 1}
    assert max(float(c.tensor.abs().max()) for c in graph.constants.values()) > 1e4


def test_a_merged_weight_beyond_float16_is_an_error() -> None:
    graph = compile_graph(amplified(1e-10).half(), X.half())
    with pytest.raises(NumericError, match=r"leaves the range of torch\.float16"):
        merge(graph)


def test_a_merged_weight_within_float16_is_rounded_once() -> None:
    module = amplified(1.0).half()
    found, _ = merge(compile_graph(module, X.half()))
    wide, _ = merge(compile_graph(module.double(), X.half().double()))
    for name, constant in found.constants.items():
        assert constant.tensor.dtype is torch.float16
        assert torch.equal(constant.tensor, wide.constants[name].tensor.half())


class Masked(nn.Module):
    """A mask of infinities between two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.5, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x) * 0.5 + self.mask) * 3


def test_an_infinite_constant_is_left_where_it_is() -> None:
    torch.manual_seed(0)
    module, x = Masked().eval(), torch.randn(2, 4)
    graph, attempts = merge(compile_graph(module, x))
    assert any("infinite constant" in a.reason for a in attempts)
    torch.testing.assert_close(evaluate(graph, [x])[0], module(x))


class EmptyRest(nn.Module):
    """A rotation of all of a head's channels, and of the rest, which is empty, none."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        return torch.cat([x[..., :4] - x[..., 4:8], x[..., 8:]], -1), x[..., 8:].reshape(2, 0) * 2


def test_an_empty_slice_is_no_patch() -> None:
    torch.manual_seed(0)
    module, x = EmptyRest().eval(), torch.randn(2, 3, 8)
    graph, _ = merge(compile_graph(module, x))
    for found, wanted in zip(evaluate(graph, [x]), module(x), strict=True):
        torch.testing.assert_close(found, wanted)
