"""PRepBN and simplified linear attention (SLAB): `RepBN(x) = BN(x) + α x` vanishes into linear maps.

With `a = γ/√(σ²+ε) + α` and `b = β - γ μ/√(σ²+ε)` it is `a x + b` by channel: `W diag(a), b_lin + W b` in
the linear after it, `diag(a) W, a b_lin + b` in the one before (the paper's code drops `α b_lin`). The
last norm folds through the mean over the tokens into the head, or, where tokens leave, by a gauge of the
residual stream: rows of its writers times a, columns of its readers by 1/a. Attention without a softmax
takes the cheaper order of `(q kᵀ) v = q (kᵀ v)`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compiler.merge import Exactness
from tests.methods.judge import scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

METHOD = Method("2.11", "PRepBN and SLA (SLAB)", "arXiv 2405.11582", "M8+M2+M6+M7")


class RepBN(nn.Module):
    """BN(x) + α x over the channels of [B, L, C]; `batch` takes the statistics of the batch."""

    def __init__(self, c: int, batch: bool = False) -> None:
        super().__init__()
        self.norm, self.alpha = nn.BatchNorm1d(c, track_running_stats=not batch), nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        return (self.norm(x) + self.alpha * x).transpose(1, 2)


class PRepBN(nn.Module):
    """λ LN(x) + (1 - λ) RepBN(x); without a λ, as in eval, RepBN alone. `first` may be another norm than LN."""

    def __init__(self, c: int, share: float | None = None, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = first or nn.LayerNorm(c), RepBN(c)
        self.register_buffer("share", None if share is None else torch.tensor(share))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.share is None:
            return self.second(x)
        return self.share * self.first(x) + (1 - self.share) * self.second(x)


class PatchEmbed(nn.Module):
    """A convolution with stride = kernel and a bias, as tokens; with `table` a position is added."""

    def __init__(self, c: int, table: bool = False) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, c, 5, 5)
        self.table = nn.Parameter(torch.zeros(1, 6, c)) if table else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.project(x).flatten(2).transpose(1, 2)
        return x if self.table is None else x + self.table


class FeedForward(nn.Module):
    """x + F(norm(x)), or y + F(y) of y = norm(x)."""

    def __init__(self, c: int, post: bool = False) -> None:
        super().__init__()
        self.norm, self.post = PRepBN(c), post
        self.inner = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return (y if self.post else x) + self.inner(y)


class Mean(nn.Module):
    """The mean over the tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


class Readers(nn.Module):
    """A norm read by q, k and v."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.maps = PRepBN(c), nn.ModuleList(nn.Linear(c, 12, bias=i == 1) for i in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.norm(x)
        return [m(x) for m in self.maps]


class Llama(nn.Module):
    """Attention and a gated feed-forward, RMSNorm giving way to RepBN: read by q, k and v, by gate and up."""

    def __init__(self, c: int, share: float | None = None) -> None:
        super().__init__()
        self.norms = nn.ModuleList(PRepBN(c, share, nn.RMSNorm(c)) for _ in range(2))
        self.maps, self.project = (
            nn.ModuleList(nn.Linear(c, c, bias=False) for _ in range(3)),
            nn.Linear(c, c, bias=False),
        )
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((c, 12), (c, 12), (12, c)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](x)
        q, k, v = (m(y).unflatten(-1, (2, -1)).transpose(1, 2) for m in self.maps)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Windows(nn.Module):
    """A norm, zeros up to whole 3×3 windows of a 5×7 map of tokens, and a linear map of each window."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.map = PRepBN(c), nn.Linear(c, 3 * c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, c = x.shape
        x = F.pad(self.norm(x).view(b, 5, 7, c), (0, 0, 0, 2, 0, 1))
        return self.map(x.view(b, 2, 3, 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, c))


class SLA(nn.Module):
    """Linear attention with ReLU features and a depthwise convolution of v; `late` is the order q (kᵀ v)."""

    def __init__(self, h: int, w: int, c: int = 32, late: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(c, c, bias=bias or i != 1) for i in range(3))
        self.table, self.project = nn.Parameter(torch.zeros(1, h * w, c)), nn.Linear(c, c)
        self.local, self.size, self.late = nn.Conv2d(c, c, 5, padding=2, groups=c), (h, w), late

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        v = self.value(x)
        near = self.local(v.transpose(1, 2).reshape(b, c, *self.size)).flatten(2).transpose(1, 2)
        heads = (F.relu(self.query(x)), F.relu(self.key(x) + self.table), v)
        q, k, v = (t.reshape(b, n, 2, -1).transpose(1, 2) for t in heads)
        mixed = q @ (k.transpose(-1, -2) @ v) if self.late else q @ k.transpose(-1, -2) @ v
        mixed = mixed / (q @ k.sum(-2).unsqueeze(-1) + 1e-6)
        return self.project(mixed.transpose(1, 2).reshape(b, n, c) + near)


class LocalValues(nn.Module):
    """The v projection, without a bias, and the depthwise convolution over it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.value, self.local = nn.Linear(c, c, bias=False), nn.Conv2d(c, c, 5, padding=2, groups=c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.local(self.value(x).transpose(1, 2).reshape(len(x), -1, 13, 15))


def block(*parts: nn.Module, size: tuple[int, ...] = (2, 35, 8)) -> Built:
    """Return parts in a row and an input: tokens, or an image."""
    generator = torch.Generator().manual_seed(13)
    return scramble(nn.Sequential(*parts)), (torch.randn(size, generator=generator),)


def image(*parts: nn.Module) -> Built:
    """Return parts on an image of 2×3 patches."""
    return block(*parts, size=(1, 3, 10, 15))


def centred_windows() -> Built:
    """Return Windows whose norm has no shift: b = 0."""
    module, inputs = block(Windows(8))
    norm = module[0].norm.second.norm
    norm.running_mean.zero_()
    norm.bias.data.zero_()
    return module, inputs


def stream(channel_off: bool = False) -> Built:
    """Return a residual stream that leaves through a norm, one of whose scales may be zero."""
    module, inputs = image(PatchEmbed(8), PRepBN(8), FeedForward(8), PRepBN(8))
    if channel_off:
        module[-1].second.alpha.data.zero_()
        module[-1].second.norm.weight.data[2] = 0.0
    return module, inputs


def attention(h: int, w: int, **options: bool) -> Built:
    """Return the attention on a map of h×w tokens."""
    return block(SLA(h, w, **options), size=(1, h * w, 32))


WINDOWS = {"constant_pad_nd": 1, "permute": 1, "linear": 1}
ATTENTION = {
    "linear": 4,
    "relu": 2,
    "add": 3,
    "permute": 7,
    "matmul": 3,
    "sum": 1,
    "div": 1,
    "conv2d": 1,
}


def macs(tokens: int, order: int) -> int:
    """Return the multiply-accumulates of the attention: `order` is that of its two products."""
    return tokens * (4 * 32 * 32 + 25 * 32 + 32) + order


MERGES = (
    Merge(
        "patch embedding to head",
        lambda: image(PatchEmbed(8), PRepBN(8), FeedForward(8), PRepBN(8), Mean(), nn.Linear(8, 10)),
        {"conv2d": 1, "permute": 1, "linear": 3, "gelu": 1, "add": 1, "mean": 1},
    ),
    Merge(
        "after a convolution with a bias",
        lambda: image(PatchEmbed(8), PRepBN(8)),
        {"conv2d": 1, "permute": 1},
    ),
    Merge(
        "before a linear without a bias",
        lambda: block(PRepBN(8), nn.Linear(8, 12, bias=False)),
        {"linear": 1},
    ),
    Merge(
        "between two linears", lambda: block(nn.Linear(8, 8), PRepBN(8), nn.GELU()), {"linear": 1, "gelu": 1}
    ),
    Merge("read by q, k and v", lambda: block(Readers(8)), {"linear": 3}),
    Merge("LayerNorm weighted by zero", lambda: block(PRepBN(8, 0.0), nn.Linear(8, 12)), {"linear": 1}),
    Merge("gauge of the stream", stream, {"conv2d": 1, "permute": 1, "linear": 2, "gelu": 1, "add": 1}),
    Merge("zero windows, no shift", centred_windows, WINDOWS),
    Merge(
        "zero windows", lambda: block(Windows(8)), {**WINDOWS, "add": 1}
    ),  # only the scale passes the zeros
    Merge(
        "after a table of positions",
        lambda: image(PatchEmbed(8, table=True), PRepBN(8), nn.GELU()),
        {"conv2d": 1, "permute": 1, "add": 1, "gelu": 1},
        Exactness.SHAPE,
    ),
    Merge(
        "SLA, many tokens",
        lambda: attention(13, 15),
        ATTENTION,
        settings={"macs": macs(195, 2 * 2 * 195 * 16 * 16)},
    ),
    Merge(
        "SLA, a bias on the keys",
        lambda: attention(13, 15, bias=True),
        ATTENTION,
        Exactness.SHAPE,
        {"macs": macs(195, 2 * 2 * 195 * 16 * 16), "constants": 10},  # the keys' bias is in the table
    ),
    Merge(
        "LLaMA, RMSNorm weighted by zero",
        lambda: block(Llama(8, 0.0)),
        {"linear": 7, "permute": 4, "scaled_dot_product_attention": 1, "silu": 1, "mul": 1, "add": 2},
        settings={"constants": 12},  # seven weights, and biases where the norms' shifts go
    ),
    Merge(
        "SLA, few tokens",
        lambda: attention(2, 3, late=True),
        ATTENTION,
        settings={"macs": macs(6, 2 * 2 * 6 * 6 * 16)},
    ),
)
REFUSALS = (
    Refusal(
        "λ above zero",
        lambda: block(PRepBN(8, 0.3), nn.Linear(8, 12)),
        {"layer_norm": 1, "linear": 1},
        reason="layer_norm is not affine",
        node="layer_norm",
    ),
    Refusal(
        "LLaMA, λ above zero",
        lambda: block(Llama(8, 0.3)),
        {"linear": 7, "silu": 1, "scaled_dot_product_attention": 1, "rms_norm": 2},
        reason="rms_norm is not affine",
        node="rms_norm",
    ),
    Refusal(
        "read by the residual",
        lambda: block(FeedForward(8, post=True)),
        {"mul": 1, "linear": 2, "gelu": 1},
        "which cannot absorb it",
        "add",
    ),
    Refusal(
        "gauge by a zero", lambda: stream(channel_off=True), {"mul": 1, "linear": 2, "conv2d": 1}, "zero"
    ),
    Refusal(
        "batch statistics",
        lambda: block(RepBN(8, batch=True), nn.Linear(8, 12)),
        {"rsqrt": 1},
        "rsqrt is not affine in its input",
    ),
)
DEARER = (
    Dearer(
        "v and its convolution",
        lambda: block(LocalValues(32), size=(2, 195, 32)),
        {"linear": 1, "conv2d": 1},
        node="conv2d",
    ),
)
