"""Weights are computed in float64 and stored once: tiny variances, and ranges that end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.errors import NumericError
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
