"""A small RepVGG (arXiv 2101.03697) in the form it is trained in: three branches, each with its BatchNorm.

    y = relu(BN(conv3x3(x)) + BN(conv1x1(x)) + BN(x))

with the last branch where shapes allow.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

STAGES = ((64, 2), (96, 3), (160, 3), (224, 2))  # channels and blocks; each stage halves the picture


class Block(nn.Module):
    """The branches of one convolution."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        """Make the branches from `inner` to `outer` channels."""
        super().__init__()
        self.dense = _normed(nn.Conv2d(inner, outer, 3, stride, 1, bias=False))
        self.point = _normed(nn.Conv2d(inner, outer, 1, stride, bias=False))
        self.identity = nn.BatchNorm2d(inner) if inner == outer and stride == 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the branches, rectified."""
        y = self.dense(x) + self.point(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return torch.relu(y)


class RepVGG(nn.Module):
    """Stages of blocks, the mean over places, a linear head."""

    def __init__(self, channels: int, classes: int) -> None:
        """Make the network for pictures of `channels` channels."""
        super().__init__()
        widths = [channels, *(width for width, _ in STAGES)]
        stages = zip(itertools.pairwise(widths), STAGES, strict=True)
        self.stages = nn.Sequential(*(_stage(*ends, blocks) for ends, (_, blocks) in stages))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32[N, classes]."""
        y: torch.Tensor = self.head(self.stages(x).mean((2, 3)))
        return y


def _stage(inner: int, outer: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(inner, outer, 2), *(Block(outer, outer, 1) for _ in range(blocks - 1)))


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
