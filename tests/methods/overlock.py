"""OverLoCK: dilated blocks, depthwise residuals, a layer scale as a convolution; ContMix stays dynamic.

The shipped re-parameterisation merges the dilated block only. `x + dw(x)` is an identity tap, the
BatchNorm after the block, the β of GRN and the layer scale fold into their neighbours as well. ContMix
computes a kernel for each pixel: its weights depend on the input, and freezing them is no merge. What is
exact there is an order: with the affinity `q kᵀ` to 49 keys mixed by P to one weight for each tap, `P (q
kᵀ) = q (P k)ᵀ`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal
from tests.models.small import ConvNorm, Sum

METHOD = Method("2.7", "OverLoCK", "arXiv 2502.20087", "M2+M3+M6")

BRANCHES = {  # K: (kernel, dilation) of each branch
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


def dilated(c: int, k: int) -> Sum:
    """Return the dilated block of kernel k."""
    branches = ((k, 1), *BRANCHES[k])
    return Sum(
        *(ConvNorm(c, c, a, padding=(r * (a - 1) + 1) // 2, dilation=r, groups=c) for a, r in branches)
    )


def depthwise_residual(c: int) -> Sum:
    """Return x + dw3x3(x)."""
    return Sum(nn.Identity(), nn.Conv2d(c, c, 3, padding=1, groups=c))


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of NCHW."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


class GRN(nn.Module):
    """Global response normalisation on NCHW: (γ N(x) + 1) x + β."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = x.norm(p=2, dim=(2, 3), keepdim=True)
        return (self.gamma * (energy / (energy.mean(1, keepdim=True) + 1e-6)) + 1) * x + self.beta


class OverLoCK(nn.Module):
    """x' + scale(1×1(GRN(x'' + dw(x'')))), x'' = GELU(1×1(SE(BN(dilated(LN(x')))))), x' = x + dw(x)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        mix = (LayerNorm2d(c), dilated(c, 7), nn.BatchNorm2d(c), Gate(c), nn.Conv2d(c, 4 * c, 1), nn.GELU())
        tail = (depthwise_residual(4 * c), GRN(4 * c), nn.Conv2d(4 * c, c, 1), nn.Conv2d(c, c, 1, groups=c))
        self.position, self.branch = depthwise_residual(c), nn.Sequential(*mix, *tail)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.position(x)
        return x + self.branch(x)


class ContMix(nn.Module):
    """A 7×7 and a 5×5 kernel for each pixel and group, from the affinity to 7×7 keys of a context."""

    def __init__(self, c: int = 32, groups: int = 2) -> None:
        super().__init__()
        self.query, self.key = ConvNorm(c, c, 1), ConvNorm(c, c, 1)
        self.mix = nn.Linear(49, 74, bias=False)
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(groups, (2 * k - 1) ** 2)) for k in (7, 5))
        self.groups = groups

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> list[torch.Tensor]:
        b, c, h, w = x.shape
        query = (self.query(x) * (c // self.groups) ** -0.5).reshape(b, self.groups, -1, h * w)
        key = self.key(F.adaptive_avg_pool2d(context, 7)).reshape(b, self.groups, -1, 49)
        taps = self.mix(query.transpose(-1, -2) @ key) + torch.cat(
            [_gathered(t, h * w) for t in self.tables], -1
        )
        results = []
        for part, half, k in zip(taps.split((49, 25), -1), x.chunk(2, 1), (7, 5), strict=True):
            near = (
                F.unfold(half, k, padding=k // 2)
                .reshape(b, self.groups, -1, k * k, h * w)
                .permute(0, 1, 4, 2, 3)
            )
            results.append((near * part.softmax(-1).unsqueeze(3)).sum(-1))
        return results


def _gathered(table: torch.Tensor, positions: int) -> torch.Tensor:
    """Return a relative position table at indices that depend on the shape only, [G, positions, taps]."""
    side = int(table.shape[1] ** 0.5 + 1) // 2
    index = (torch.arange(positions)[:, None] + torch.arange(side * side)[None, :]) % table.shape[1]
    return table[:, index]


def block(module: nn.Module, *sizes: tuple[int, ...]) -> Built:
    """Return a module and inputs with odd sizes."""
    generator = torch.Generator().manual_seed(8)
    sizes = sizes or ((2, 8, 21, 23),)
    return scramble(module), tuple(torch.randn(s, generator=generator) for s in sizes)


def contmix() -> Built:
    """Return ContMix at 13×15 with a context of another size, at which its pool is not uniform."""
    return block(ContMix(), (1, 32, 13, 15), (1, 32, 9, 11))


OVERLOCK = {
    "conv2d": 8,
    "permute": 2,
    "layer_norm": 1,
    "mean": 2,
    "silu": 1,
    "sigmoid": 1,
    "gelu": 1,
    "linalg_vector_norm": 1,
    "div": 1,
    "mul": 2,
    "add": 2,  # γ N + 1 is a depthwise 1×1
}
CONTMIX = {
    "conv2d": 2,
    "adaptive_avg_pool2d": 1,
    "linear": 1,
    "matmul": 1,
    "add": 1,
    "softmax": 2,
    "im2col": 2,
    "permute": 3,
    "mul": 2,
    "sum": 2,
    "split_with_sizes": 1,
    "split": 1,
}
# The 1×1s, then the keys mixed first: 2 groups of (16 × 49 × 74 + 195 × 16 × 74).
MACS = 32 * 32 * (195 + 49) + 2 * (16 * 49 * 74 + 195 * 16 * 74)
MERGES = (
    *(Merge(f"K{k}", lambda k=k: block(dilated(8, k)), {"conv2d": 1}) for k in BRANCHES),
    Merge("x + dw(x)", lambda: block(depthwise_residual(8)), {"conv2d": 1}),
    Merge("block", lambda: block(OverLoCK()), OVERLOCK),
    Merge("ContMix, keys mixed first", contmix, CONTMIX, settings={"macs": MACS}),
)
REFUSALS = (
    Refusal(
        "LayerNorm before the dilated block",
        lambda: block(nn.Sequential(LayerNorm2d(8), dilated(8, 7))),
        {"layer_norm": 1, "permute": 2, "conv2d": 1, "mul": 0, "add": 0},
        "shift before zero fill",
        "conv2d",
    ),
    Refusal(
        "kernels from the input",
        contmix,
        {"softmax": 2, "im2col": 2},
        reason="softmax is not affine",
        node="softmax",
    ),
)
