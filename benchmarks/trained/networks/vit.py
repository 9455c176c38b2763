"""A tiny ViT (arXiv 2010.11929) on 32 x 32 pictures: patches of 4 x 4, the mean over tokens for a head."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.trained.networks.transformer import Block

SIZE, PATCH = 32, 4
WIDTH, HEADS, DEPTH = 96, 3, 6


class ViT(nn.Module):
    """Patches, places, blocks, a norm, the mean over tokens, a linear head."""

    def __init__(self, channels: int, classes: int) -> None:
        """Make the network for pictures of `channels` channels."""
        super().__init__()
        self.patches = nn.Conv2d(channels, WIDTH, PATCH, PATCH)
        self.places = nn.Parameter(0.5 * torch.randn(1, (SIZE // PATCH) ** 2, WIDTH))  # as large as patches
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, causal=False) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32[N, classes]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        y: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return y
