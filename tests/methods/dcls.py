"""DCLS: a convolution whose kernel is built from weights at learned positions; it folds to a plain one.

With `q = P + ⌊size/2⌋` and the grid index i, a filter is `K_i = Σ_m W_m · f(i - q_m) / (Σ_i f + 1e-7)`: a
triangle in each direction (v1), a wider one of half-width `|SIG| + 1` (max), a Gaussian of deviation
`|SIG| + 0.27` (gauss), or the corners around each position weighted by their distance, not normalised
(v0). The positions are clamped by the training loop only, so here they may leave the grid. In two
dimensions the first position is the column, yet its centre is that of the first size: on a grid that is
not square the graph is what counts.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Dearer, Merge, Method
from tests.models.small import ConvNorm, Sum

METHOD = Method("2.8", "DCLS", "arXiv 2112.03740, 2306.00817", "M1")


class DCLS(nn.Module):
    """A convolution with m weights at learned positions for each filter, and its BatchNorm unless told otherwise."""

    def __init__(
        self,
        version: str,
        size: tuple[int, ...] = (7, 9),
        out: int = 8,
        g: int = 8,
        s: int = 1,
        m: int = 4,
        norm: bool = True,
    ) -> None:
        super().__init__()
        rank, shape = len(size), (out, 8 // g, m)
        self.weight, self.position = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(rank, *shape))
        self.spread = nn.Parameter(torch.zeros(rank, *shape))
        self.version, self.size, self.groups, self.stride = version, size, g, s
        norms = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
        self.norm = norms[rank - 1](out) if norm else nn.Identity()

    def kernel(self) -> torch.Tensor:
        """Return the dense kernel, [Co, Ci/g, *size]."""
        rank = len(self.size)
        lines = [torch.arange(n, dtype=self.weight.dtype) for n in self.size]
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij")).reshape(rank, *self.size, 1, 1, 1)
        # The first axis of the positions is the column, its centre that of the first size.
        order = [1, 0, *range(2, rank)] if rank > 1 else [0]
        centre = torch.tensor([n // 2 for n in self.size], dtype=self.weight.dtype)
        q = (self.position * 6 + centre.reshape(-1, 1, 1, 1))[order].reshape(
            rank, *(1,) * rank, *self.weight.shape
        )
        spread = self.spread[order].reshape(rank, *(1,) * rank, *self.weight.shape).abs()
        dense = (self._footprint(grid, q, spread, rank) * self.weight).sum(-1)
        return dense.permute(rank, rank + 1, *range(rank))

    def _footprint(
        self, grid: torch.Tensor, q: torch.Tensor, spread: torch.Tensor, rank: int
    ) -> torch.Tensor:
        if self.version == "v0":
            near = torch.floor(q)
            share = (grid == near) * (1 - (q - near)) + (grid == near + 1) * (q - near)
            return share.prod(0)
        if self.version == "gauss":
            spots = (-0.5 * torch.linalg.vector_norm((grid - q) / (spread + 0.27), dim=0) ** 2).exp()
        else:
            reach = spread + 1 if self.version == "max" else torch.ones_like(spread)
            spots = F.relu(reach - (grid - q).abs()).prod(0)
        return spots / (spots.sum(tuple(range(rank)), keepdim=True) + 1e-7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.size) - 1]
        padding = tuple(n // 2 for n in self.size)
        return self.norm(convolve(x, self.kernel(), None, self.stride, padding, 1, self.groups))


def block(module: nn.Module, size: tuple[int, ...] = (2, 8, 15, 17)) -> Built:
    """Return a module and an input with odd sizes."""
    generator = torch.Generator().manual_seed(9)
    return scramble(module), (torch.randn(size, generator=generator),)


VERSIONS = ("v0", "v1", "max", "gauss")
MERGES = (
    *(Merge(f"{v} depthwise", lambda v=v: block(DCLS(v)), {"conv2d": 1}) for v in VERSIONS),
    Merge("gauss, g2 s2, wider", lambda: block(DCLS("gauss", (9, 9), 12, 2, 2)), {"conv2d": 1}),
    Merge("v1, one axis", lambda: block(DCLS("v1", (9,)), (2, 8, 17)), {"conv1d": 1}),
    Merge("v1, three axes", lambda: block(DCLS("v1", (3, 5, 5)), (1, 8, 5, 7, 9)), {"conv3d": 1}),
    Merge(
        "with a small branch and an identity",
        lambda: block(Sum(DCLS("gauss"), ConvNorm(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))),
        {"conv2d": 1},
    ),
)
DEARER = (
    Dearer(
        "the file would grow, and the runtime folds at load",
        lambda: block(DCLS("gauss", (31, 31), 64, 2, norm=False)),
        {"conv2d": 1, "linalg_vector_norm": 1, "exp": 1},
        reason="the generator is much smaller, and the runtime runs it once, at load",
        settings={"load_time": True},
    ),
)
