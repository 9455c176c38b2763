"""The blocks of the tiny ViT and the tiny GPT: a norm before attention, another before two linear layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

EXPANSION = 4


class Attention(nn.Module):
    """Softmax attention of several heads; a causal one sees no later token."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        """Make the projections of a layer `width` wide."""
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32[N, tokens, width]."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        y: torch.Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return y

    def extra_repr(self) -> str:
        """Return what no weight's shape tells."""
        return f"heads={self.heads}, causal={self.causal}"


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        """Make a block `width` wide."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.up, self.down = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32[N, tokens, width]."""
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.down(gelu(self.up(self.norm2(x))))
        return y
