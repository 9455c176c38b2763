"""Unified Normalization: a norm by a running second moment is affine by channel, `S = γ/√(v+ε)`, `t = β`.

Before linear maps it vanishes: `W diag(S), b + W β`. After a residual sum its output is read by the next
residual too: it stays, unless every writer and reader of the stream is linear, so that a gauge takes it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.12", "Unified Normalization", "arXiv 2208.01313", "M2+M7")


class UN(nn.Module):
    """γ x / √(v+ε) + β over the channels of [B, L, C]; v is a buffer, or the geometric mean of a window."""

    def __init__(self, c: int, window: bool = False) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("moment", torch.linspace(0.3, 2.0, c))
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 1)
        moment = self.moment
        if self.window:
            moment = torch.stack([moment, x.square().mean((0, 2))]).log().mean(0).exp()
        x = x / torch.sqrt(moment + 1e-5).view(1, -1, 1)
        return (x * self.gamma.view(1, -1, 1) + self.beta.view(1, -1, 1)).permute(0, 2, 1)


class FeedForward(nn.Module):
    """x + F(UN(x)), or UN(x + F(x))."""

    def __init__(self, c: int, post: bool = False) -> None:
        super().__init__()
        self.norm, self.post = UN(c), post
        self.inner = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.inner(x)) if self.post else x + self.inner(self.norm(x))


class Readers(nn.Module):
    """A norm read by q, k and v."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.maps = UN(c), nn.ModuleList(nn.Linear(c, 12, bias=i == 1) for i in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.norm(x)
        return [m(x) for m in self.maps]


class Filled(nn.Module):
    """A norm, zeros after the last token, and a linear map."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.map = UN(c), nn.Linear(c, 3 * c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(F.pad(self.norm(x), (0, 0, 0, 5)))


def block(*parts: nn.Module) -> Built:
    """Return parts in a row and an input of 17 tokens."""
    generator = torch.Generator().manual_seed(14)
    return scramble(nn.Sequential(*parts)), (torch.randn(2, 17, 8, generator=generator),)


def filled_without_shift() -> Built:
    """Return Filled whose norm has β = 0."""
    module, inputs = block(Filled(8))
    module[0].norm.beta.data.zero_()
    return module, inputs


FEED_FORWARD = {"linear": 2, "gelu": 1, "add": 1}
MERGES = (
    Merge("before a linear", lambda: block(UN(8), nn.Linear(8, 12)), {"linear": 1}),
    Merge(
        "before a linear without a bias", lambda: block(UN(8), nn.Linear(8, 12, bias=False)), {"linear": 1}
    ),
    Merge("read by q, k and v", lambda: block(Readers(8)), {"linear": 3}),
    Merge("pre-norm", lambda: block(FeedForward(8)), FEED_FORWARD),
    Merge(
        "two pre-norms",
        lambda: block(FeedForward(8), FeedForward(8)),
        {k: 2 * n for k, n in FEED_FORWARD.items()},
    ),
    Merge(
        "post-norm, by a gauge",
        lambda: block(nn.Linear(8, 8), FeedForward(8, post=True)),
        {**FEED_FORWARD, "linear": 3},
    ),
    Merge("zero fill, no shift", filled_without_shift, {"constant_pad_nd": 1, "linear": 1}),
    Merge("zero fill", lambda: block(Filled(8)), {"constant_pad_nd": 1, "linear": 1, "add": 1}),
)
REFUSALS = (
    Refusal(
        "post-norm of what no weight writes",
        lambda: block(FeedForward(8, post=True)),
        {"mul": 1, "linear": 2},
        "written by an operation that is not linear",
        "input",
    ),
    Refusal(
        "statistics of a window",
        lambda: block(UN(8, window=True), nn.Linear(8, 12)),
        {"log": 1, "div": 1, "linear": 1},
        reason="div multiplies values that all depend on the input",
        node="div",
    ),
)
