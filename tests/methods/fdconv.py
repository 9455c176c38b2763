"""FDConv: kernels made per sample from a spectrum whose frequency groups are gated by the input.

`kernel(x) = irfft2(scatter(pi_g(x) dft_g))` is linear in the gates, so that the spatial bank
`K_g = irfft2(scatter(dft_g))` is constant and each sample mixes it: no FFT is left. The bank is `groups` times the
weight, so that it wins for few groups only. The gates depend on the input: freezing them is no exact
rewrite, and they stay.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

METHOD = Method("2.16", "FDConv", "arXiv 2503.18783", "M1+M6, M4")


class FDConv(nn.Module):
    """A k x k convolution, its spectrum [outside k, inside k / 2 + 1] in `groups` by frequency radius."""

    def __init__(self, inside: int, outside: int, kernel: int, groups: int, gather: bool) -> None:
        super().__init__()
        rows, columns = outside * kernel, inside * kernel
        self.shape = (outside, kernel, inside, kernel)
        self.dft = nn.Parameter(torch.empty(rows, columns // 2 + 1, 2))
        self.gate = nn.Linear(inside, groups)
        radius = torch.fft.fftfreq(rows)[:, None] ** 2 + torch.fft.rfftfreq(columns) ** 2
        by_radius = radius.flatten().argsort().tensor_split(groups)
        group_of = torch.cat([torch.full_like(i, g) for g, i in enumerate(by_radius)])
        self.register_buffer("group_of", group_of[torch.cat(by_radius).argsort()])
        self.gather = gather
        self.places = [(i // radius.shape[1], i % radius.shape[1]) for i in by_radius]

    def kernels(self, gates: torch.Tensor) -> torch.Tensor:
        """Return one kernel a sample, [N outside, inside, k, k]."""
        bank, outside, k, inside = torch.view_as_complex(self.dft), *self.shape[:3]
        if self.gather:
            spectrum = gates[:, self.group_of].reshape(-1, *bank.shape) * bank
        else:
            spectrum = bank.new_zeros(len(gates), *bank.shape)
            for g, (row, column) in enumerate(self.places):
                spectrum[:, row, column] = gates[:, g, None] * bank[row, column]
        # The size is stated: without it an odd number of columns comes back one short.
        weight = torch.fft.irfft2(spectrum, s=(outside * k, inside * k))
        weight = weight.reshape(len(gates), *self.shape).permute(0, 1, 3, 2, 4)
        return weight.reshape(-1, inside, k, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        weight = self.kernels(self.gate(x.mean((2, 3))).sigmoid())
        y = F.conv2d(x.reshape(1, -1, height, width), weight, padding=self.shape[1] // 2, groups=batch)
        return y.reshape(batch, -1, height, width)


def layer(inside: int = 4, outside: int = 6, kernel: int = 3, groups: int = 4, gather: bool = False) -> Built:
    return scramble(FDConv(inside, outside, kernel, groups, gather)), (sample(2, inside, 11, 13),)


# The gates, the mixture of the bank, the convolution of each sample.
BANK = {"mean": 1, "linear": 2, "sigmoid": 1, "conv2d": 1}

MERGES = (
    Merge("bank of 4 groups", layer, BANK),
    Merge("gates gathered, not scattered", lambda: layer(gather=True), BANK),
    Merge("odd number of columns", lambda: layer(inside=3), BANK),
    Merge("1x1 kernel", lambda: layer(inside=8, outside=8, kernel=1), BANK),
)
REFUSALS = (
    Refusal(
        "gates depend on the input",
        layer,
        {"sigmoid": 1, "conv2d": 1, "mean": 1},
        "depends on the input 'x'",
        "x",
    ),
)
DEARER = (
    Dearer(
        "bank of 64 groups",
        lambda: layer(32, 32, groups=64, gather=True),
        {"fft_irfft2": 1, "conv2d": 1, "linear": 1},
        node="fft_irfft2",
    ),
)
