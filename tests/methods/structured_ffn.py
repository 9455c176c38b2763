"""Structured feed-forward layers: low rank, BlockDense and BlockShuffle factors, or one dense matrix.

    W = U V,    W = L blkdiag(B),    W[sL+l, kP+p] = Σ_{r: (rL+l)//Q = k} B2[l,s,r] B1[k,(rL+l) mod Q,p]

Which form is cheaper depends on the number of tokens and on the device: the factors have fewer
multiply-accumulates and fewer bytes, the dense matrix fewer operations to start. Self-guided training
adds a dense matrix with a factor α that ends at zero: while α > 0 all is one dense matrix, at zero the
guide is dead.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compiler.cost.roofline import Roofline
from tests.methods.judge import scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

METHOD = Method("2.9", "Structured FFN", "arXiv 2406.16450", "M2")


class LowRank(nn.Module):
    """U (V x) + b; `bend` is an activation between the factors."""

    def __init__(self, cin: int, out: int, rank: int, bend: bool = False) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(cin, rank, bias=False), nn.Linear(rank, out, bias=False)
        self.bias, self.bend = nn.Parameter(torch.zeros(out)), bend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        return self.up(F.gelu(x) if self.bend else x) + self.bias


class BlockDense(nn.Module):
    """L (blkdiag(B) x) + b with four blocks."""

    def __init__(self, cin: int, out: int, rank: int) -> None:
        super().__init__()
        self.blocks = nn.Parameter(torch.zeros(4, rank // 4, cin // 4))
        self.up, self.bias = nn.Linear(rank, out, bias=False), nn.Parameter(torch.zeros(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.bmm(x.view(len(x), 4, -1).transpose(0, 1), self.blocks.transpose(1, 2))
        return self.up(parts.transpose(0, 1).reshape(len(x), -1)) + self.bias


class BlockShuffle(nn.Module):
    """Two block-diagonal factors with four blocks and a shuffle between (Monarch), + b."""

    def __init__(self, cin: int, out: int) -> None:
        super().__init__()
        middle = min(cin, out)
        self.first = nn.Parameter(torch.zeros(4, middle // 4, cin // 4))
        self.second = nn.Parameter(torch.zeros(4, out // 4, middle // 4))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = len(x)
        y = torch.bmm(x.view(n, 4, -1).transpose(0, 1), self.first.transpose(1, 2)).transpose(0, 1)
        y = y.reshape(n, -1, 4).permute(2, 0, 1)
        return torch.bmm(y, self.second.transpose(1, 2)).permute(1, 2, 0).reshape(n, -1) + self.bias


class Guided(nn.Module):
    """α W x + (1 - α) f(x); with `gate` the guide runs for a random share of the calls only."""

    def __init__(
        self, cin: int, out: int, rank: int, alpha: float, gate: bool = False, kind: str = "LowRank"
    ) -> None:
        super().__init__()
        self.guide, self.factors = nn.Linear(cin, out, bias=False), layer(kind, cin, out, rank)
        self.register_buffer("alpha", torch.tensor(alpha))
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        guide = self.alpha * self.guide(x)
        if self.gate:
            guide = torch.where(torch.rand(()) < self.alpha, guide, torch.zeros(()))
        return guide + (1 - self.alpha) * self.factors(x)


def layer(kind: str, cin: int, out: int, rank: int) -> nn.Module:
    """Return one layer of a kind."""
    if kind == "BlockShuffle":
        return BlockShuffle(cin, out)
    return (BlockDense if kind == "BlockDense" else LowRank)(cin, out, rank)


def block(module: nn.Module, tokens: int, width: int = 32) -> Built:
    """Return a module and an input of some tokens."""
    generator = torch.Generator().manual_seed(10)
    return scramble(module), (torch.randn(tokens, width, generator=generator),)


def ffn(kind: str, tokens: int, width: int = 32, hidden: int = 48, rank: int = 16) -> Built:
    """Return layer, GELU, layer."""
    parts = layer(kind, width, hidden, rank), nn.GELU(), layer(kind, hidden, width, rank)
    return block(nn.Sequential(*parts), tokens, width)


KINDS = ("LowRank", "BlockDense", "BlockShuffle")
DENSE = {"linear": 2, "gelu": 1}
# Of one token through both layers at widths 256 and 512, rank 64; dense it is 262144.
MACS = {
    "LowRank": 2 * 64 * 768,
    "BlockDense": 64 * (512 + 64) + 64 * (256 + 128),
    "BlockShuffle": 2 * 256 * 768 // 4,
}
FACTORS = {
    "LowRank": {"linear": 4, "gelu": 1},
    "BlockDense": {"linear": 2, "bmm": 2, "gelu": 1},
    "BlockShuffle": {"bmm": 4, "add": 2, "gelu": 1},
}
SLOW_START = {"prior": Roofline(launch_macs=1e8)}  # a GPU that a few tokens do not fill


def big(kind: str, tokens: int) -> Built:
    """Return a feed-forward whose factors have a third of the weights."""
    return ffn(kind, tokens, 256, 512, 64)


MERGES = (
    *(Merge(f"{k}, few tokens", lambda k=k: ffn(k, 3), DENSE) for k in KINDS),
    *(Merge(f"{k}, slow to start", lambda k=k: big(k, 7), DENSE, settings=SLOW_START) for k in KINDS),
    Merge("guided, few tokens", lambda: block(Guided(32, 48, 16, 0.3), 3), {"linear": 1}),
    Merge("guided, many tokens", lambda: block(Guided(256, 512, 64, 0.3), 255, 256), {"linear": 1}),
    *(
        Merge(
            f"guided {k}, {tokens} tokens",
            lambda k=k, tokens=tokens: block(Guided(256, 512, 64, 0.3, kind=k), tokens, 256),
            {"linear": 1},
        )
        for k in ("BlockDense", "BlockShuffle")
        for tokens in (3, 255)
    ),
    Merge("guide at zero, few tokens", lambda: block(Guided(32, 48, 16, 0.0), 3), {"linear": 1}),
    Merge("guide at zero, many tokens", lambda: block(Guided(256, 512, 64, 0.0), 255, 256), {"linear": 2}),
)
REFUSALS = (
    Refusal(
        "across the activation",
        lambda: block(LowRank(32, 48, 16, bend=True), 3),
        {"linear": 2, "gelu": 1},
        reason="gelu is not affine",
        node="gelu",
    ),
    Refusal("a random gate", lambda: block(Guided(32, 48, 16, 0.3, gate=True), 3), {}, "random"),
)
DEARER = (
    *(
        Dearer(f"{k}, many tokens", lambda k=k: big(k, 255), FACTORS[k], settings={"macs": 255 * MACS[k]})
        for k in KINDS
    ),
    *(
        Dearer(
            f"guide at zero, {k}, many tokens",
            lambda k=k: block(Guided(256, 512, 64, 0.0, kind=k), 255, 256),
            {"permute": 2 * n, "bmm": n, **rest},
            settings={"macs": 255 * macs},
        )
        for k, n, rest, macs in (
            ("BlockDense", 1, {"linear": 1}, 64 * (512 + 64)),
            ("BlockShuffle", 2, {"add": 1}, 256 * 768 // 4),
        )
    ),
    Dearer("LowRank, one token, many bytes", lambda: big("LowRank", 1), FACTORS["LowRank"], node="linear"),
)
