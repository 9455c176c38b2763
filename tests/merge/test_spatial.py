"""Every operation over a grid that has a form, in front of, behind and beside a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.small import ConvNorm, Function, Sum, merged, randomize, reasons

pytestmark = pytest.mark.core
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(2, 8, 12, 10, generator=GENERATOR)
ROW = torch.randn(2, 8, 13, generator=GENERATOR)
VOLUME = torch.randn(1, 4, 5, 6, 7, generator=GENERATOR)


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def transposed(*sizes: int, **options: int) -> nn.Module:
    return nn.ConvTranspose2d(*sizes, **options)


CASES: dict[str, tuple[nn.Module, torch.Tensor, dict[str, int]]] = {
    "transposed then norm": (
        sequence(transposed(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.BatchNorm2d(6)),
        X,
        {"conv_transpose2d": 1},
    ),
    "point then transposed then point": (
        sequence(
            nn.Conv2d(8, 8, 1, bias=False), transposed(8, 6, 4, stride=2, padding=1), nn.Conv2d(6, 6, 1)
        ),
        X,
        {"conv_transpose2d": 1},
    ),
    "two transposed kernels": (
        Sum(transposed(8, 6, 4, stride=2, padding=1), transposed(8, 6, 2, stride=2)),
        X,
        {"conv_transpose2d": 1},
    ),
    "dilated transposed": (
        sequence(transposed(8, 6, 3, stride=2, padding=2, dilation=2), nn.BatchNorm2d(6)),
        X,
        {"conv_transpose2d": 1},
    ),
    "one axis": (
        sequence(nn.Conv1d(8, 8, 1), nn.Conv1d(8, 6, 3), nn.BatchNorm1d(6)),
        ROW,
        {"conv1d": 1},
    ),
    "three axes": (
        Sum(nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4)),
        VOLUME,
        {"conv3d": 1},
    ),
    "unshuffle then point": (
        sequence(nn.PixelUnshuffle(2), nn.Conv2d(32, 8, 1)),
        X,
        {"conv2d": 1},
    ),
    "channel shuffle then point": (
        sequence(nn.ChannelShuffle(4), nn.Conv2d(8, 6, 1)),
        X,
        {"conv2d": 1},
    ),
    "point then channel shuffle": (
        sequence(nn.Conv2d(8, 6, 1), nn.ChannelShuffle(3)),
        X,
        {"conv2d": 1},
    ),
    "pool that leaves the padding out, then point": (
        sequence(nn.BatchNorm2d(8), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Conv2d(8, 6, 1)),
        X,
        {"avg_pool2d": 1, "conv2d": 1},
    ),
    "norm, global mean, linear": (
        Function(lambda x, a, b: b(a(x).mean((2, 3))), nn.BatchNorm2d(8), nn.Linear(8, 5)),
        X,
        {"mean": 1, "linear": 1},
    ),
    "norm, upsampling, point": (
        sequence(nn.BatchNorm2d(8), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 6, 1)),
        X,
        {"upsample_bilinear2d": 1, "conv2d": 1},
    ),
    "one input, outputs side by side": (
        Function(lambda x, a, b: torch.cat([a(x), b(x)], 1), ConvNorm(8, 4, 1), ConvNorm(8, 6, 1)),
        X,
        {"conv2d": 1},
    ),
    "slices of channels": (
        Function(lambda x, a: a(x)[:, 2:5], nn.Conv2d(8, 8, 1)),
        X,
        {"conv2d": 1},
    ),
    "tokens and back": (
        Function(
            lambda x, a, b: b(a(x.flatten(2).mT).mT.reshape(x.shape)), nn.Linear(8, 8), nn.Conv2d(8, 8, 1)
        ),
        X,
        {"conv2d": 1},
    ),
    "roll between two layers": (
        Function(lambda x, a, b: b(torch.roll(a(x), (1, 2), (2, 3))), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)),
        X,
        {"roll": 1, "conv2d": 1},
    ),
    "crop by negative padding": (
        Function(lambda x, a: a(F.pad(x, (-1, -2, -1, 0))), ConvNorm(8, 6, 3)),
        X,
        {"constant_pad_nd": 1, "conv2d": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_form_is_found(name: str) -> None:
    torch.manual_seed(0)
    module, x, after = CASES[name]
    graph, attempts = merged(randomize(module, 1), x)
    counts = {op.split(".")[1]: n for op, n in graph.histogram().items()}
    relabels = ("reshape", "permute", "expand", "unsqueeze", "squeeze")
    assert {op: n for op, n in counts.items() if op not in relabels} == after
    assert all(a.residual is None or a.residual < 1e-9 for a in attempts)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (sequence(transposed(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3)), "transposed"),
        (
            sequence(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")),
            "padding",
        ),
        (
            Sum(
                nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
                nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
            ),
            "differently",
        ),
    ],
    ids=["transposed then dense", "reflection of a mixture", "two ways to pad"],
)
def test_what_has_no_form_is_refused(module: nn.Module, reason: str) -> None:
    torch.manual_seed(0)
    _, attempts = merged(module, X)
    assert any(reason in r for r in reasons(attempts, "refused"))
