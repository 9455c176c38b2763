"""RepLKNet and UniRepLKNet: a large depthwise kernel with a small or several dilated ones becomes one.

A tap `a` of a branch of kernel k and dilation r is tap `(K-1)/2 + r (a - (k-1)/2)` of the K×K. Where a
branch reaches further than K (the paper's code crops it in silence) the kernel grows. Around it: the
BatchNorms of RepLKNet's 1×1s fold into them from both sides, and UniRepLKNet's tail, the β of GRN, a
linear, a BatchNorm and a layer scale, becomes one linear, through the permute between NHWC and NCHW.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal
from tests.models.small import ConvNorm, Sum

METHOD = Method("2.6", "RepLKNet and UniRepLKNet", "arXiv 2203.06717, 2311.15599", "M2+M3")

BRANCHES = {  # K: (kernel, dilation) of each branch
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


def dilated(c: int, *branches: tuple[int, int]) -> Sum:
    """Return the sum of depthwise branches (kernel, dilation), a BatchNorm each."""
    return Sum(
        *(ConvNorm(c, c, k, padding=(r * (k - 1) + 1) // 2, dilation=r, groups=c) for k, r in branches)
    )


def reparam(c: int, k: int) -> Sum:
    """Return UniRepLKNet's dilated block of kernel k; below 5 it is one convolution."""
    return dilated(c, (k, 1), *BRANCHES.get(k, ()))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class GRN(nn.Module):
    """Global response normalisation on [N, H, W, C]: (γ N(x) + 1) x + β."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = x.norm(p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * (energy / (energy.mean(-1, keepdim=True) + 1e-6)) + 1) * x + self.beta


class UniRepLKNet(nn.Module):
    """x + γ BN(Linear(GRN(GELU(Linear(SE(BN(dw(x)))))))), the linear maps in NHWC."""

    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(reparam(c, k), nn.BatchNorm2d(c), Gate(c))
        self.channel = nn.Sequential(
            nn.Linear(c, 4 * c), nn.GELU(), GRN(4 * c), nn.Linear(4 * c, c, bias=False)
        )
        self.norm, self.gamma = nn.BatchNorm2d(c), nn.Parameter(torch.ones(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.channel(self.spatial(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.gamma.view(1, -1, 1, 1) * self.norm(y)


def replknet(c: int, k: int) -> nn.Sequential:
    """Return RepLKNet's block and its feed-forward, a residual around each."""
    large = Sum(ConvNorm(c, c, k, padding=k // 2, groups=c), ConvNorm(c, c, 5, padding=2, groups=c))
    inner = (nn.BatchNorm2d(c), ConvNorm(c, c, 1), nn.ReLU(), large, nn.ReLU(), ConvNorm(c, c, 1))
    feed = (nn.BatchNorm2d(c), ConvNorm(c, 4 * c, 1), nn.GELU(), ConvNorm(4 * c, c, 1))
    return nn.Sequential(Sum(nn.Identity(), nn.Sequential(*inner)), Sum(nn.Identity(), nn.Sequential(*feed)))


class NormBefore(nn.Module):
    """OverLoCK's order: a LayerNorm over channels, then the dilated block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), reparam(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.mix(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


def block(module: nn.Module, size: tuple[int, ...] = (2, 8, 15, 19)) -> Built:
    """Return a module and an input with odd sizes."""
    generator = torch.Generator().manual_seed(7)
    return scramble(module), (torch.randn(size, generator=generator),)


UNIREPLKNET = {
    "conv2d": 3,
    "mean": 2,
    "relu": 1,
    "sigmoid": 1,
    "permute": 2,
    "linear": 2,
    "gelu": 1,
    "linalg_vector_norm": 1,
    "div": 1,
    "mul": 3,
    "add": 3,  # GRN without β, the gate, the residual
}
MERGES = (
    *(Merge(f"K{k}", lambda k=k: block(reparam(8, k)), {"conv2d": 1}) for k in BRANCHES),
    Merge("branch beyond K", lambda: block(dilated(8, (5, 1), (5, 2))), {"conv2d": 1}),
    *(Merge(f"UniRepLKNet K{k}", lambda k=k: block(UniRepLKNet(8, k)), UNIREPLKNET) for k in (13, 3)),
    *(
        Merge(
            f"RepLKNet K{k}",
            lambda k=k: block(replknet(4, k), (1, 4, 33, 35)),
            {"conv2d": 5, "relu": 2, "gelu": 1, "add": 2},
        )
        for k in (31, 13)
    ),
)
REFUSALS = (
    Refusal(
        "LayerNorm before the dilated block",
        lambda: block(NormBefore()),
        {"layer_norm": 1, "permute": 2, "conv2d": 1, "mul": 0, "add": 0},
        "shift before zero fill",
        "conv2d",
    ),
)
DEARER = (
    Dearer(
        "dilated branches without the large one",
        lambda: block(dilated(32, (3, 7), (3, 5)), (2, 32, 31, 33)),
        {"conv2d": 2, "add": 1},
        node="add",
    ),
)
