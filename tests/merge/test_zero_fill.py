"""What a padded operation reads outside the image: which pairs still compose, and the ways a shift can take."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.ir.schema import overload
from compiler.merge import Exactness, Outcome
from compiler.merge.convolution import convolutions
from compiler.merge.shift import push
from compiler.merge.step import ENTRY, Program, Ref, Writer
from tests.merge.test_split import distance, evaluated, inputs, tap_map
from tests.models.small import Sum, merged, randomize, reasons

pytestmark = pytest.mark.core


class Padded(nn.Module):
    """A layer behind an explicit pad: left, right, top, bottom."""

    def __init__(self, pads: tuple[int, ...], layer: nn.Module) -> None:
        super().__init__()
        self.pads, self.layer = pads, layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(F.pad(x, self.pads))


def image(channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def drawn(*layers: nn.Module) -> nn.Sequential:
    """Return layers in a row with random statistics, and weights of their own seed."""
    torch.manual_seed(0)
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                part.reset_parameters()
    return randomize(nn.Sequential(*layers))


def norm(**zeros: list[int]) -> nn.BatchNorm2d:
    """Return a BatchNorm of four channels that is randomized, with zeros put where `weight` or `bias` say."""
    made = randomize(nn.BatchNorm2d(4), 3)
    for name, channels in zeros.items():
        getattr(made, name).data[channels] = 0.0
    return made


@pytest.mark.parametrize(("height", "width", "axis"), [(12, 16, None), (13, 16, 0), (12, 15, 1)])
def test_patches_before_a_padded_convolution(height: int, width: int, axis: int | None) -> None:
    pair = drawn(nn.Conv2d(1, 1, 4, 4, bias=False), nn.Conv2d(1, 1, 3, padding=1))
    graph, attempts = merged(pair, image(1, height, width))
    assert graph.histogram()["aten.conv2d.default"] == (1 if axis is None else 2)
    refused = [a for a in attempts if a.outcome is Outcome.REFUSED]
    assert [a.node for a in refused] == ([] if axis is None else ["conv2d_1"])
    assert all(f"pads axis {axis} with zeros" in a.reason for a in refused)


@pytest.mark.parametrize("size", [9, 10])
def test_a_strided_padded_pair_composes_where_the_last_window_ends_with_the_image(size: int) -> None:
    pair = drawn(nn.Conv2d(1, 1, 3, 2, 1, bias=False), nn.Conv2d(1, 1, 3, padding=1))
    graph, attempts = merged(pair, image(1, size, 9))
    assert graph.histogram()["aten.conv2d.default"] == (1 if size == 9 else 2)
    assert any("pads axis 0 with zeros" in r for r in reasons(attempts, "refused")) == (size == 10)


def test_branches_padded_on_different_sides_are_one() -> None:
    branches = Padded((2, 0, 0, 2), nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
    graph, _ = merged(drawn(Sum(*branches)), image(4, 9, 11))
    assert graph.histogram() == {"aten.conv2d.default": 1}


@pytest.mark.parametrize("bias", [False, True])
def test_a_pad_on_two_sides_composes_unless_a_bias_meets_it(bias: bool) -> None:
    pair = drawn(nn.Conv2d(4, 4, 1, bias=bias), Padded((2, 0, 1, 0), nn.Conv2d(4, 4, 3)))
    graph, attempts = merged(pair, image(4, 9, 11))
    added = {"aten.add.Tensor": 1} if bias else {}
    assert graph.histogram() == {"aten.conv2d.default": 1, **added}
    assert any("shift before zero fill" in r for r in reasons(attempts, "refused")) == bias


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_norm_folds_whole_where_the_image_pads_itself(mode: str) -> None:
    module = drawn(nn.BatchNorm2d(4), nn.Conv2d(4, 6, (5, 3), padding=(2, 1), padding_mode=mode))
    graph, attempts = merged(module, image(4, 9, 11))
    assert graph.histogram() == {"aten.pad.default": 1, "aten.conv2d.default": 1}
    assert not reasons(attempts, "refused")
    assert {a.exactness for a in attempts if a.outcome is Outcome.MERGED} == {Exactness.REAL}


@pytest.mark.parametrize("off", [[], [1]])
def test_no_constant_outside_the_image_stands_for_the_shift_of_a_channel_scaled_by_zero(
    off: list[int],
) -> None:
    module = drawn(nn.Conv2d(4, 6, 3, padding=1))
    graph, attempts = merged(nn.Sequential(norm(weight=off), module), image(4, 9, 11))
    subtracted = graph.histogram().get("aten.add.Tensor", 0) == 1
    assert subtracted == (not off)
    refused = [a for a in attempts if a.outcome is Outcome.REFUSED]
    assert any("shift before zero fill" in a.reason and "conv2d" in a.node for a in refused)
    assert (graph.histogram()["aten.conv2d.default"] == 2) == bool(off)  # the norm, and what it cannot enter


@pytest.mark.parametrize("shifted", [False, True])
def test_before_a_transposed_convolution_the_scale_folds_and_the_shift_does_not(shifted: bool) -> None:
    before = norm() if shifted else norm(bias=[0, 1, 2, 3])
    if not shifted:
        before.running_mean.zero_()
    transposed = drawn(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1))
    graph, attempts = merged(nn.Sequential(before, transposed), image(4, 7, 5))
    assert graph.histogram() == {"aten.conv_transpose2d.input": 1} | (
        {"aten.conv2d.default": 1} if shifted else {}
    )
    assert any("shift before zero fill" in r for r in reasons(attempts, "refused")) == shifted


def run(program: Program, x: torch.Tensor) -> torch.Tensor:
    """Run the steps of a program in float64."""
    made = [x]

    def resolved(operand: object) -> object:
        if isinstance(operand, Ref):
            return made[operand.index + 1]
        return tuple(map(resolved, operand)) if isinstance(operand, tuple) else operand

    for step in program.steps:
        made.append(overload(step.op)(**{k: resolved(o) for k, o in step.operands.items()}))
    return made[program.result.index + 1]


@pytest.mark.parametrize("geometry", [(3, 1, 1, 1, 1, 9), (2, 2, 2, 3, 0, 10), (3, 1, 3, 0, 2, 11)])
def test_each_way_out_of_a_zero_fill_is_exact(geometry: tuple[int, ...]) -> None:
    taps = tap_map([geometry, (3, 1, 1, 1, 1, 8)], (1, 6, 4), 0)
    x, outside = inputs(taps), torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    shift = push(taps, outside)
    assert shift is not None and shift.dim() == 3
    wanted = evaluated(taps, x + outside.reshape(1, -1, 1, 1))
    exact_by_shape = {}
    for way in convolutions(taps, shift):
        writer = Writer(torch.float64)
        program = writer.program(way.run(writer, ENTRY, len(x)))
        assert distance(run(program, x), wanted) < 1e-12
        exact_by_shape[way.note] = way.shape_only
    assert exact_by_shape == {
        "a static map added": True,
        "the constant outside the image subtracted first": False,
        "a channel of ones appended": True,
    }
