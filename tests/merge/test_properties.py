"""The merge algebra against torch in float64, over random geometry."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from compiler.cost.roofline import Roofline
from compiler.merge import merge
from tests.models.small import ConvNorm, Sum, compile_graph, error, merged, randomize, reasons

pytestmark = pytest.mark.thorough
# The same examples in every run; `--hypothesis-seed` with derandomize off explores further.
SETTINGS = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


class Padded(nn.Module):
    """An explicit, possibly asymmetric (or cropping) pad in front of a branch."""

    def __init__(self, pads: tuple[int, ...], branch: nn.Module) -> None:
        super().__init__()
        self.pads, self.branch = pads, branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(F.pad(x, self.pads))


class Scaled(nn.Module):
    """A branch times a per-channel layer scale and a scalar."""

    def __init__(self, branch: nn.Module, channels: int, factor: float) -> None:
        super().__init__()
        self.branch, self.factor = branch, factor
        self.gamma = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(self.branch(x) * self.gamma) / self.factor


@st.composite
def branch_sums(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    """Parallel branches of any kernel, dilation, padding and groups that agree in output size."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    channels, stride = draw(st.sampled_from([4, 8])), draw(st.integers(1, 3))
    size = (draw(st.integers(9, 14)), draw(st.integers(9, 14)))
    branches: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        branch = _branch(draw, channels, stride)
        if draw(st.booleans()):
            branch = nn.Sequential(branch, nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        if draw(st.booleans()):
            branch = Scaled(branch, channels, draw(st.sampled_from([0.5, 3.0])))
        branches.append(branch)
    if stride == 1 and draw(st.booleans()):
        branches.append(nn.BatchNorm2d(channels) if draw(st.booleans()) else nn.Identity())
    return randomize(Sum(*branches)), torch.randn(2, channels, *size)


def _branch(draw: st.DrawFn, channels: int, stride: int) -> nn.Module:
    kind = draw(st.sampled_from(["conv", "conv", "pool", "pad"]))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    if kind == "pool":
        kernel = (draw(st.sampled_from([1, 3])),) * 2
        return nn.AvgPool2d(kernel, stride, (kernel[0] - 1) // 2)
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    groups = draw(st.sampled_from([1, 2, channels]))
    conv = {"stride": stride, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    if kind == "conv" and all(e % 2 for e in extents):
        return nn.Conv2d(channels, channels, kernel, padding=[e // 2 for e in extents], **conv)
    lefts = [draw(st.integers(-1, e)) for e in extents]
    pads = (lefts[1], extents[1] - 1 - lefts[1], lefts[0], extents[0] - 1 - lefts[0])
    return Padded(pads, nn.Conv2d(channels, channels, kernel, **conv))


@given(branch_sums())
@SETTINGS
def test_any_sum_of_branches_merges_into_one_convolution(case: tuple[nn.Module, torch.Tensor]) -> None:
    module, x = case
    graph, attempts = merged(module, x)
    histogram = graph.histogram()
    assert "aten.batch_norm.default" not in histogram
    assert histogram.get("aten.conv2d.default", 0) <= max(1, len(module.branches))
    assert not reasons(attempts, "refused")


@st.composite
def conv_pairs(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    """Two convolutions in a row, of any geometry, with a BatchNorm before, between and after or not."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    widths = [draw(st.sampled_from([2, 4, 8])) for _ in range(3)]
    layers: list[nn.Module] = [nn.BatchNorm2d(widths[0])] if draw(st.booleans()) else []
    for inside, outside in pairwise(widths):
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        geometry = {
            "stride": draw(st.integers(1, 2)),
            "dilation": draw(st.integers(1, 2)),
            "padding": padding,
        }
        groups = draw(st.sampled_from([1, 2]))
        layers.append(nn.Conv2d(inside, outside, kernel, groups=groups, bias=draw(st.booleans()), **geometry))
        if draw(st.booleans()):
            layers.append(nn.BatchNorm2d(outside))
    size = (draw(st.integers(14, 17)), draw(st.integers(14, 17)))  # room for two dilated kernels
    return randomize(nn.Sequential(*layers)), torch.randn(1, widths[0], *size)


@given(conv_pairs())
@SETTINGS
def test_sequences_stay_equal_whether_merged_or_refused(case: tuple[nn.Module, torch.Tensor]) -> None:
    module, x = case
    graph, _ = merged(module, x)
    assert "aten.batch_norm.default" not in graph.histogram()


@st.composite
def overlapping_pairs(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    """Two convolutions of one channel that meet both tests of `merges.md` 1.4, a BatchNorm behind each.

    `e1 <= p1 + s1` on the left and `e1 <= p1 + s1 - r` on the right, with r what the last window leaves over; and
    no shift in between.
    """
    torch.manual_seed(draw(st.integers(0, 2**31)))
    axes: list[tuple[int, int, int, int, int]] = []
    for _ in range(2):
        kernel, dilation, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
        extent = dilation * (kernel - 1) + 1
        padding = draw(st.integers(max(0, extent - stride), extent))
        least = draw(st.integers(12, 15))
        over = (least + 2 * padding - extent) % stride
        size = least if extent <= padding + stride - over else least - over
        axes.append((kernel, dilation, stride, padding, size))
    kernels, dilations, strides, paddings, sizes = zip(*axes, strict=True)
    one = nn.Conv2d(1, 1, kernels, strides, paddings, dilations, bias=False)
    norm = nn.BatchNorm2d(1)
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    two = nn.Conv2d(1, 2, kernel, draw(st.integers(1, 2)), padding)
    module = randomize(nn.Sequential(one, norm, two, nn.BatchNorm2d(2)))
    norm.running_mean.zero_()
    nn.init.zeros_(norm.bias)
    return module, torch.randn(1, 1, *sizes)


@given(overlapping_pairs())
@SETTINGS
def test_a_pair_whose_paddings_agree_is_one(case: tuple[nn.Module, torch.Tensor]) -> None:
    module, x = case[0].double(), case[1].double()
    # Where only launches cost, nothing but the padding could stand against it.
    graph, attempts = merge(compile_graph(module, x), prior=Roofline(launch_macs=1e9))
    assert error(graph, module, [x]) < 1e-9
    assert not reasons(attempts, "refused")
    assert graph.histogram() == {"aten.conv2d.default": 1}


@given(st.integers(0, 2**31), st.integers(0, 1), st.booleans())
@SETTINGS
def test_pointwise_chains_of_any_length_become_one(seed: int, extra: int, bias: bool) -> None:
    torch.manual_seed(seed)
    widths = [6, 9, 12, 6][: 3 + extra]
    layers = [ConvNorm(a, b, 1) if not bias else nn.Conv2d(a, b, 1) for a, b in pairwise(widths)]
    graph, _ = merged(randomize(nn.Sequential(*layers)), torch.randn(2, 6, 5, 5))
    assert graph.histogram()["aten.conv2d.default"] == 1


@pytest.mark.parametrize("rank", [1, 3])
def test_one_and_three_dimensional_branches(rank: int) -> None:
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if rank == 1 else (nn.Conv3d, nn.BatchNorm3d)
    torch.manual_seed(rank)
    wide = nn.Sequential(conv(4, 4, 3, padding=1, bias=False), norm(4))
    module = randomize(Sum(wide, nn.Sequential(conv(4, 4, 1), norm(4)), norm(4)))
    graph, _ = merged(module, torch.randn(2, 4, *(6,) * rank))
    assert graph.histogram() == {f"aten.conv{rank}d.default": 1}


def test_the_judge_sees_a_wrong_weight() -> None:
    torch.manual_seed(0)
    module = randomize(Sum(ConvNorm(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
    x = torch.randn(1, 4, 6, 6)
    graph, _ = merged(module, x)
    name = next(n for n in graph.constants if n.endswith("weight"))
    graph.constants[name].tensor[0, 0, 0, 0] += 1e-6
    assert error(graph, module, [x]) > 1e-9
