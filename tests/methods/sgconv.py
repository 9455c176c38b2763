"""SGConv: a long convolution through the FFT, its kernel built from a few scales.

The kernel is a weight-only subgraph. For a fixed length L the layer is a depthwise convolution with the taps
`k[0 .. L-1]` at lags 0 .. L-1 and D added to lag 0 (a second kernel takes lags -1, -2, ... from its first
tap on, and its last is never used), or an FFT, a product with a constant spectrum and an inverse FFT.
The direct form costs L per output, so that it wins for short kernels only.

The reference fails to export, since it asks a boolean buffer whether the norm of the kernel was set; here
the norm is a buffer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Exactness, Merge, Method, Refusal

METHOD = Method("2.18", "SGConv", "arXiv 2210.09298", "M1+M3+M6")


class SGConv(nn.Module):
    """`scales` parameters of `width` values each, stretched, concatenated or summed, decayed and normed."""

    def __init__(
        self, channels: int = 4, scales: int = 3, width: int = 4, mode: str = "linear", join: str = "cat",
        sides: int = 1, late_norm: bool = False, branch: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scales = nn.ParameterList(torch.empty(sides * channels, 1, width) for _ in range(scales))
        self.skip = nn.Parameter(torch.empty(channels, 1))
        self.register_buffer("norm", sample(sides * channels, 1).abs() + 0.5)
        self.register_buffer("is_set", torch.zeros(()))
        self.mode, self.join, self.sides, self.late_norm, self.branch = mode, join, sides, late_norm, branch

    def kernel(self, length: int) -> torch.Tensor:
        parts, count, width = [], len(self.scales), self.scales[0].shape[-1]
        for i, values in enumerate(self.scales):
            size = width * 2 ** (i if self.join == "sum" else max(0, i - 1))
            flags = {"align_corners": False} if self.mode == "linear" else {}
            part = F.interpolate(values, size=size, mode=self.mode, **flags)[:, 0] * 1.7 ** (count - i - 1)
            parts.append(F.pad(part, (0, width * 2 ** (count - 1) - size)) if self.join == "sum" else part)
        kernel = torch.cat(parts, -1) if self.join == "cat" else sum(parts)
        kernel = F.pad(kernel, (0, max(0, length - kernel.shape[-1])))[:, :length]
        return kernel / self._norm(kernel) * torch.arange(1, kernel.shape[-1] + 1) ** -0.3

    def _norm(self, kernel: torch.Tensor) -> torch.Tensor:
        if self.branch and not self.is_set.bool():
            return kernel.norm(dim=-1, keepdim=True)
        if self.late_norm:
            norm = torch.where(self.is_set > 0, self.norm, kernel.norm(dim=-1, keepdim=True))
            self.norm.copy_(norm)
            self.is_set.fill_(1.0)
            return norm
        return self.norm

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        length = u.shape[-1]
        kernel = self.kernel(length)
        if self.sides == 2:
            past, future = kernel.chunk(2)
            kernel = F.pad(past, (0, length)) + F.pad(future.flip(-1), (length, 0))
        spectrum = torch.fft.rfft(kernel, n=2 * length)
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * spectrum, n=2 * length)[..., :length]
        return y + u * self.skip


def layer(length: int = 19, **options: object) -> Built:
    module = SGConv(**options)
    return scramble(module), (sample(2, module.skip.shape[0], length),)


def dynamic() -> Built:
    return layer(64)


MERGES = tuple(
    Merge(name, lambda options=options: layer(**options), {"conv1d": 1}, Exactness.SHAPE)
    for name, options in {
        "cat of linear scales": {},
        "cat of nearest scales": {"mode": "nearest"},
        "sum of linear scales": {"join": "sum"},
        "sum of nearest scales": {"join": "sum", "mode": "nearest"},
        "kernel cut to the length": {"length": 11},
        "both directions": {"sides": 2},
    }.items()
)
REFUSALS = (
    Refusal(
        "length known at run time",
        dynamic,
        {"fft_rfft": 2, "fft_irfft": 1, "conv1d": 0},
        "run time",
        settings={"dynamic_shapes": {"u": {2: Dim("length", min=33, max=4096)}}},
    ),
    Refusal(
        "a branch on a boolean buffer",
        lambda: layer(branch=True),
        {},
        "control flow or shapes depend on data",
    ),
    Refusal(
        "norm set by the first forward",
        lambda: layer(late_norm=True),
        {"fft_rfft": 2, "fft_irfft": 1, "conv1d": 0},
        "state",
    ),
)
DEARER = (
    # The spectrum is constant, and D is a constant added to it.
    Dearer(
        "long kernel",
        lambda: layer(2048, scales=8, width=16),
        {"fft_rfft": 1, "fft_irfft": 1, "conv1d": 0},
        node="add",
    ),
)
