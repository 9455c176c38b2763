"""A small MobileNetV2 (arXiv 1801.04381): inverted residuals with BatchNorm and ReLU6."""

from __future__ import annotations

import torch
from torch import nn

STEM, LAST = 48, 512
STAGES = (  # expansion, channels, blocks, stride of the first
    (1, 40, 1, 1),
    (4, 48, 2, 1),
    (4, 96, 3, 2),
    (4, 160, 2, 2),
    (4, 224, 1, 1),
)


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter each channel by a 3x3, narrow by a 1x1; add the input where shapes allow."""

    def __init__(self, inner: int, outer: int, stride: int, expansion: int) -> None:
        """Make the block from `inner` to `outer` channels."""
        super().__init__()
        hidden = inner * expansion
        widen = _activated(inner, hidden, 1) if expansion > 1 else nn.Identity()
        each = _activated(hidden, hidden, 3, stride, groups=hidden)
        narrow = nn.Sequential(nn.Conv2d(hidden, outer, 1, bias=False), nn.BatchNorm2d(outer))
        self.layers = nn.Sequential(widen, each, narrow)
        self.adds = inner == outer and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32[N, outer, H / stride, W / stride]."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """A stem, stages of inverted residuals, a 1x1, the mean over places, a linear head."""

    def __init__(self, channels: int, classes: int) -> None:
        """Make the network for pictures of `channels` channels."""
        super().__init__()
        self.stem = _activated(channels, STEM, 3, 2)
        blocks, width = [], STEM
        for expansion, outer, count, stride in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(width, outer, stride if index == 0 else 1, expansion))
                width = outer
        self.blocks = nn.Sequential(*blocks)
        self.last = _activated(width, LAST, 1)
        self.head = nn.Linear(LAST, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32[N, classes]."""
        y: torch.Tensor = self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return y


def _activated(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU6())
