"""MaskUNet: a decoder's weights times a binary mask.

A static mask is part of the weight, exact for that mask; so is one of a schedule's, once its time step is
fixed. A schedule known at run time keeps its masks and one weight, not one weight a step. A mask that
the features decide, or that Gumbel noise draws, stays.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.20", "MaskUNet", "arXiv 2505.03097", "M4, M1")


class Masked(nn.Module):
    """Convolution, BatchNorm, ReLU, mean, linear; both weights masked, by a buffer or by `logits > 0`."""

    def __init__(self, from_logits: bool, noise: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 5)
        masks = sample(8, 6, 3, 3), sample(5, 8)
        for name, mask in zip(("conv_mask", "head_mask"), masks, strict=True):
            self.register_buffer(name, mask if from_logits else (mask > 0).float())
        self.from_logits, self.noise = from_logits, noise

    def mask(self, values: torch.Tensor) -> torch.Tensor:
        if self.noise:
            values = values - torch.empty_like(values).exponential_().log()
        return (values > 0).to(values.dtype) if self.from_logits else values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, self.conv.weight * self.mask(self.conv_mask), self.conv.bias, 2, 1)
        y = F.relu(self.norm(y)).mean((2, 3))
        return F.linear(y, self.head.weight * self.mask(self.head_mask), self.head.bias)


class Schedule(nn.Module):
    """One weight and a mask for each of four time steps; `t` has shape [1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.register_buffer("masks", sample(4, 8, 6, 3, 3) > 0)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight * self.masks.index_select(0, t).reshape(self.conv.weight.shape)
        return F.relu(self.norm(F.conv2d(x, weight, self.conv.bias, padding=1)))


class FromInput(nn.Module):
    """One mask a sample, from pooled features: a convolution of as many groups as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.logits = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.Linear(6, 8 * 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        mask = (self.logits(x.mean((2, 3))) > 0).to(x.dtype).reshape(-1, 8, 6, 1, 1)
        weight = (self.conv.weight * mask).flatten(0, 1)
        return F.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=batch)


class PerSample(nn.Module):
    """One mask a sample, from pooled tokens and a time embedding: a product for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.times, self.logits = nn.Embedding(4, 6), nn.Linear(6, 8 * 6)
        self.weight, self.bias = nn.Parameter(torch.empty(8, 6)), nn.Parameter(torch.empty(8))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        mask = (self.logits(x.mean(1) + self.times(t)) > 0).to(x.dtype).reshape(-1, 8, 6)
        return torch.baddbmm(self.bias, x, (self.weight * mask).mT)


def image(module: nn.Module, *others: torch.Tensor) -> Built:
    return scramble(module), (sample(2, 6, 11, 13), *others)


STATIC = {"conv2d": 1, "relu": 1, "mean": 1, "linear": 1}

MERGES = (
    Merge("mask in a buffer", lambda: image(Masked(False)), STATIC),
    Merge("mask where logits are positive", lambda: image(Masked(True)), STATIC),
    Merge(
        "time step fixed",
        lambda: image(Schedule(), torch.tensor([1])),
        {"conv2d": 1, "relu": 1},
        settings={"freeze": {"t": torch.tensor([2])}},
    ),
)
REFUSALS = (
    Refusal(
        "mask from the input",
        lambda: image(FromInput()),
        {"mean": 1, "linear": 1, "gt": 1, "mul": 1, "conv2d": 1},
        "depends on the input 'x'",
        "x",
    ),
    Refusal(
        "mask from the input, a product for each sample",
        lambda: (scramble(PerSample()), (sample(2, 7, 6), torch.tensor([3, 1]))),
        {"embedding": 1, "linear": 1, "gt": 1, "baddbmm": 1},
        reason="baddbmm",
        node="baddbmm",
    ),
    Refusal("mask drawn at random", lambda: image(Masked(True, noise=True)), {}, "random"),
    # Four masks and one weight, not four weights: the product stays.
    Refusal(
        "time step an input",
        lambda: image(Schedule(), torch.tensor([1])),
        {"index_select": 1, "mul": 1},
        "depends on the input 't'",
        "t",
        settings={"other": {"t": torch.tensor([3])}},
    ),
)
