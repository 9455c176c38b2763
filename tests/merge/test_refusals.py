"""Unsafe merges are refused, with the reason and the node to blame."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.merge import Outcome
from tests.models.graphs import relative_error
from tests.models.small import ConvNorm, Sum, merged, randomize, reasons

pytestmark = pytest.mark.core


def _input(channels: int = 4) -> torch.Tensor:
    return torch.randn(1, channels, 9, 9)


def test_two_same_padded_3x3_are_not_one_5x5() -> None:
    torch.manual_seed(0)
    # One channel: the 5x5 would be cheap, so that only the padding stands against it.
    module = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Conv2d(1, 1, 3, padding=1, bias=False)
    )
    graph, attempts = merged(module, _input(1))
    assert graph.histogram()["aten.conv2d.default"] == 2
    refused = [a for a in attempts if a.outcome is Outcome.REFUSED]
    assert "interior only" in refused[0].reason
    assert refused[0].node == "conv2d_1"


def test_two_valid_3x3_are_one_5x5_when_cheap() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    graph, _ = merged(module, _input(1))
    assert graph.histogram() == {"aten.conv2d.default": 1}


@pytest.mark.parametrize("bias", [True, False])
def test_separable_pair_with_zero_padding_merges_only_without_bias(bias: bool) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4, bias=bias)
    second = nn.Conv2d(4, 4, (1, 3), padding=(0, 1), groups=4)
    graph, attempts = merged(nn.Sequential(first, second), _input())
    assert graph.histogram()["aten.conv2d.default"] == (2 if bias else 1)
    assert any("shift before zero fill" in r for r in reasons(attempts, "refused")) == bias


def test_batch_norm_before_a_padded_conv_leaves_its_shift_in_front() -> None:
    torch.manual_seed(0)
    module = randomize(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    graph, attempts = merged(module, _input())
    assert any("shift before zero fill" in r for r in reasons(attempts, "refused"))
    # The scale folds; the constant outside the image is subtracted first, so that zeros stand for it.
    assert graph.histogram() == {"aten.add.Tensor": 1, "aten.conv2d.default": 1}


@pytest.mark.parametrize("padding", [0, 1])
def test_batch_norm_without_shift_folds_into_a_padded_conv(padding: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    module = randomize(nn.Sequential(norm, nn.Conv2d(4, 6, 3, padding=padding)))
    nn.init.zeros_(norm.bias)
    norm.running_mean.zero_()
    graph, _ = merged(module, _input())
    assert graph.histogram() == {"aten.conv2d.default": 1}


def test_batch_norm_before_an_unpadded_conv_folds_whole() -> None:
    torch.manual_seed(0)
    graph, _ = merged(randomize(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))), _input())
    assert graph.histogram() == {"aten.conv2d.default": 1}


def test_pad_by_bias_makes_the_shift_harmless() -> None:
    class PadByBias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, bias=False)
            nn.init.constant_(self.first.bias, 0.75)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(nn.functional.pad(self.first(x), (1, 1, 1, 1), value=0.75))

    torch.manual_seed(0)
    graph, _ = merged(PadByBias(), _input(1))
    assert graph.histogram() == {"aten.conv2d.default": 1}


def test_wider_middle_is_kept_narrow_by_price() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 4, 1), nn.Conv2d(4, 64, 1))
    graph, attempts = merged(module, torch.randn(1, 64, 28, 28))
    assert graph.histogram()["aten.conv2d.default"] == 2
    assert any("legal, but" in r for r in reasons(attempts, "kept"))


def test_depthwise_then_pointwise_is_kept() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 1))
    graph, _ = merged(module, torch.randn(1, 64, 28, 28))
    assert graph.histogram()["aten.conv2d.default"] == 2


def test_branches_that_cannot_merge_still_merge_inside() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(ConvNorm(4, 4, 3, padding=1), ConvNorm(4, 4, 3, padding=1))
    graph, attempts = merged(randomize(Sum(deep, nn.Identity())), _input())
    assert graph.histogram() == {"aten.conv2d.default": 2, "aten.add.Tensor": 1}
    assert any("interior only" in r for r in reasons(attempts, "refused"))


def test_statistics_of_the_batch_are_not_affine() -> None:
    module = randomize(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))
    x = _input()
    graph, _ = merged(module, x)
    assert {"aten.conv2d.default", "aten.mean.dim", "aten.rsqrt.default"} <= set(graph.histogram())
    assert relative_error(graph, module, [x]) < 1e-12
