"""A tiny GPT on bytes: what follows a window of 64 of them."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.trained.networks.transformer import Block
from benchmarks.trained.text import SYMBOLS, WINDOW

WIDTH, HEADS, DEPTH = 96, 3, 4


class GPT(nn.Module):
    """Bytes, places, causal blocks, a norm, a linear head."""

    def __init__(self) -> None:
        """Make the network."""
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(1, WINDOW, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, causal=True) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Return the logits of what follows the window, float32[N, symbols], from int64[N, 64]."""
        y: torch.Tensor = self.head(self.hidden(symbols)[:, -1])
        return y

    def everywhere(self, symbols: torch.Tensor) -> torch.Tensor:
        """Return the logits of what follows each place, float32[N, 64, symbols]: what training needs."""
        y: torch.Tensor = self.head(self.hidden(symbols))
        return y

    def hidden(self, symbols: torch.Tensor) -> torch.Tensor:
        """Return the normalised state at each place, float32[N, 64, width]."""
        y: torch.Tensor = self.norm(self.blocks(self.symbols(symbols) + self.places))
        return y
