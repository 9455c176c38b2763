"""RepVGG: 3x3, 1x1 and identity branches, a BatchNorm each, become one 3x3.

The gate of an SE may follow the sum: it depends on the data and stays, and the branches still merge.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.1", "RepVGG", "arXiv 2101.03697", "M2+M3")


class RepVGG(nn.Module):
    """One block; `gate` is where the SE is: nowhere, `after` the sum or `inside` the 1x1 branch."""

    def __init__(
        self,
        groups: int = 1,
        stride: int = 1,
        out: int = 8,
        gate: str = "",
        mode: str = "zeros",
        skip: str = "",
    ) -> None:
        super().__init__()
        options = {"groups": groups, "bias": False, "padding_mode": mode}
        self.dense = nn.Conv2d(8, out, 3, stride, 1, **options)
        self.point = nn.Conv2d(8, out, 1, stride, 0, **options)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(3))
        self.gate, self.stride = gate, stride
        self.skip = skip or ("identity" if stride == 1 and out == 8 else "none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        point = self.norms[1](self.point(x))
        if self.gate == "inside":
            point = _gated(point)
        y = self.norms[0](self.dense(x)) + point
        if self.skip == "identity":
            y = y + self.norms[2](x)
        if self.skip == "sliced":
            y = y + self.norms[2](x[:, :, :: self.stride, :: self.stride])
        return F.relu(_gated(y) if self.gate == "after" else y)


def _gated(y: torch.Tensor) -> torch.Tensor:
    return y * y.mean((2, 3), keepdim=True).sigmoid()


def block(**options: int | str) -> Built:
    """Return a block and an input with odd sizes."""
    generator = torch.Generator().manual_seed(2)
    return scramble(RepVGG(**options)), (torch.randn(2, 8, 11, 13, generator=generator),)


def train_mode() -> Built:
    """Return a block that normalises by the statistics of the batch."""
    module, inputs = block()
    for norm in module.norms:
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    return module, inputs


ONE = {"conv2d": 1, "relu": 1}
MERGES = (
    *(
        Merge(f"g{g} s{s}", lambda g=g, s=s: block(groups=g, stride=s), ONE)
        for g in (1, 4, 8)
        for s in (1, 2)
    ),
    Merge("no identity, wider", lambda: block(out=12, groups=4), ONE),
    Merge("s2, the identity subsampled", lambda: block(stride=2, skip="sliced"), ONE),
    Merge("SE after the sum", lambda: block(gate="after"), {**ONE, "mean": 1, "sigmoid": 1, "mul": 1}),
    *(
        Merge(f"padding {m}", lambda m=m: block(mode=m, groups=2), {**ONE, "pad": 1})
        for m in ("reflect", "replicate", "circular")
    ),
)
REFUSALS = (
    Refusal(
        "s2, the identity not subsampled",
        lambda: block(stride=2, skip="identity"),
        {},
        "cannot be exported",
    ),
    Refusal("batch statistics", train_mode, {"rsqrt": 3}, "rsqrt is not affine in its input"),
    Refusal(
        "SE inside a branch",
        lambda: block(gate="inside"),
        {"conv2d": 2, "sigmoid": 1},
        "which cannot absorb it",
        "mul",
    ),
)
