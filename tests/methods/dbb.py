"""Diverse Branch Block: k×k, 1×1, 1×1 → average and 1×1 → k×k branches become one k×k.

Inside the last two a BatchNorm is followed by padding. Padded with `BN(0) = β - μ S`, the frame is what the
1×1 and its BatchNorm give for a zero image, so the composition holds on the border; padded with zeros it
is short of that vector wherever a window leaves the image. The vector is written into a zero frame
(`constant_pad_nd`, then four slices), as the paper's code does.

Even kernels and kernels that are not square cannot be embedded by the paper's code; as offsets they can.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from compiler.merge import Exactness
from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal
from tests.models.small import ConvNorm

METHOD = Method("2.3", "Diverse Branch Block", "arXiv 2103.13425", "M1+M2+M3")


class PaddedNorm(nn.BatchNorm2d):
    """A BatchNorm and a frame of `pad` pixels that holds its value at zero, or zeros.

    With `batch` it normalises by the batch, while the frame still comes from the running statistics.
    """

    def __init__(self, channels: int, pad: tuple[int, int], zeros: bool = False) -> None:
        super().__init__(channels)
        self.pad, self.zeros, self.batch = pad, zeros, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = self.pad
        y = F.batch_norm(x, None, None, self.weight, self.bias, True) if self.batch else super().forward(x)
        y = F.pad(y, (w, w, h, h))
        if self.zeros:
            return y
        frame = (self.bias - self.running_mean * self.weight / torch.sqrt(self.running_var + self.eps)).view(
            1, -1, 1, 1
        )
        if h:
            y[:, :, 0:h, :] = frame
            y[:, :, -h:, :] = frame
        if w:
            y[:, :, :, 0:w] = frame
            y[:, :, :, -w:] = frame
        return y


class Residual1x1(nn.Conv2d):
    """A 1×1 convolution whose weight is the identity plus a parameter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(self.out_channels)[:, None] % self.weight.shape[1]
        identity = (rows == torch.arange(self.weight.shape[1])).to(self.weight.dtype)
        return F.conv2d(x, self.weight + identity[:, :, None, None], groups=self.groups)


def dbb(
    k: tuple[int, int] = (3, 3),
    s: int = 1,
    g: int = 1,
    d: int = 1,
    inner: int = 8,
    out: int = 8,
    zeros: bool = False,
) -> nn.ModuleList:
    """Return the four branches; a depthwise block has no 1×1 branch and pools its input."""
    pad = (k[0] // 2, k[1] // 2)
    point = {"groups": g, "bias": False}
    first = Residual1x1(8, 8, 1, **point) if inner == 8 else nn.Conv2d(8, inner, 1, **point)
    wide = nn.Conv2d(inner, out, k, s, groups=g, bias=False)
    chain = nn.Sequential(first, PaddedNorm(inner, pad, zeros), wide, nn.BatchNorm2d(out))
    large = ConvNorm(8, out, k, stride=s, padding=pad, groups=g, dilation=d)
    if g == out:
        return nn.ModuleList([large, nn.Sequential(nn.AvgPool2d(k, s, pad), nn.BatchNorm2d(out)), chain])
    pooled = (
        nn.Conv2d(8, out, 1, **point),
        PaddedNorm(out, pad, zeros),
        nn.AvgPool2d(k, s),
        nn.BatchNorm2d(out),
    )
    return nn.ModuleList([ConvNorm(8, out, 1, stride=s, groups=g), large, nn.Sequential(*pooled), chain])


class Block(nn.Module):
    """The branches, their sum and a ReLU."""

    def __init__(self, branches: nn.ModuleList) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(sum((b(x) for b in self.branches[1:]), self.branches[0](x)))


def block(branches: nn.ModuleList, size: tuple[int, ...] = (2, 8, 11, 13)) -> Built:
    """Return a block of branches and an input with odd sizes."""
    generator = torch.Generator().manual_seed(4)
    return scramble(Block(branches)), (torch.randn(size, generator=generator),)


def train_mode() -> Built:
    """Return a block in training: its frames no longer hold what its BatchNorms give for zero."""
    module, inputs = block(dbb())
    for part in module.modules():
        if isinstance(part, PaddedNorm):
            part.batch = True
    return module, inputs


def starved() -> Built:
    """Return the last branch alone with a zero frame, so narrow that each way around the zeros costs more.

    The shift of five channels after a 4×5 matrix is the image of no input; a map over the 64 outputs, or
    a channel of ones beside the input, moves more bytes than the 1×1 convolution saves.
    """
    narrow = (
        nn.Conv2d(4, 5, 1, bias=False),
        PaddedNorm(5, (1, 1), zeros=True),
        nn.Conv2d(5, 64, 3, bias=False),
    )
    return block(nn.ModuleList([nn.Sequential(*narrow, nn.BatchNorm2d(64))]), (2, 4, 31, 33))


ONE = {"conv2d": 1, "relu": 1}
CASES = {
    "k1": {"k": (1, 1)},
    "k3": {},
    "k5": {"k": (5, 5)},
    "k3 s2": {"s": 2},
    "k3 g4": {"g": 4},
    "k3 g4 s2, inner 12": {"g": 4, "s": 2, "inner": 12},
    "k3, inner 12, wider": {"inner": 12, "out": 10},
    "k5 depthwise": {"k": (5, 5), "g": 8, "inner": 16},
    "k3 depthwise s2": {"g": 8, "s": 2, "inner": 16},
    "k3x5": {"k": (3, 5)},
    "k4 s2, even": {"k": (4, 4), "s": 2},
}
MERGES = (
    *(Merge(name, lambda o=options: block(dbb(**o)), ONE) for name, options in CASES.items()),
    # Not one convolution: the border misses part of the shift, which a map over the positions adds.
    Merge("padded with zeros", lambda: block(dbb(zeros=True)), {**ONE, "add": 1}, Exactness.SHAPE),
)
REFUSALS = (
    Refusal("k4 s1, even", lambda: block(dbb(k=(4, 4))), {}, "cannot be exported"),
    Refusal(
        "padded with zeros, sizes known at run time",
        lambda: block(dbb(zeros=True)[3:]),
        {"conv2d": 2},
        "a shift meets zero padding on axis 0, whose size is only known at run time",
        "conv2d",
        settings={
            "dynamic_shapes": {"x": {2: Dim("height", min=9), 3: Dim("width", min=9)}},
            "other": {"x": sample(2, 8, 15, 10)},
        },
    ),
    Refusal("d2 in one branch only", lambda: block(dbb(d=2)), {}, "cannot be exported"),
    # On a 3×3 image the dilated branch has one output, which the others' additions broadcast.
    Refusal(
        "d2, broadcasting",
        lambda: block(dbb(d=2)[:2], (2, 8, 3, 3)),
        {"conv2d": 2, "add": 1},
        reason="add joins values",
        node="add",
    ),
    Refusal("batch statistics", train_mode, {"rsqrt": 2}, "rsqrt is not affine in its input"),
)
DEARER = (Dearer("padded with zeros, narrow", starved, {"conv2d": 2}, node="conv2d"),)
