"""ACNet: a k×k, a 1×k and a k×1 convolution, a BatchNorm each, become one k×k.

With `p < k//2` the block crops its input before the one-dimensional convolutions: a negative left padding
in terms of offsets, `o = d a - p + crop`. The block of the paper's code leaves dilation out of the
paddings of the thin branches; with the paddings scaled by the dilation the sum is a dilated k×k.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.2", "ACNet", "arXiv 1908.03930", "M2+M3")


class ACNet(nn.Module):
    """One block of kernel k, padding p, stride s, groups g and dilation d.

    `scaled` says whether the thin branches' paddings know the dilation.
    """

    def __init__(
        self,
        k: int = 3,
        p: int = 1,
        s: int = 1,
        g: int = 1,
        d: int = 1,
        affine: bool = True,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        reach = (d if scaled else 1) * (k // 2)
        self.crop, near = max(reach - p, 0), max(p - reach, 0)
        options = {"stride": s, "groups": g, "dilation": d, "bias": False}
        self.square = nn.Conv2d(8, 12, k, padding=p, **options)
        self.row = nn.Conv2d(8, 12, (1, k), padding=(near, p), **options)
        self.column = nn.Conv2d(8, 12, (k, 1), padding=(p, near), **options)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12, affine=affine) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.crop
        across, down = (x[:, :, c:-c, :], x[:, :, :, c:-c]) if c else (x, x)
        y = self.norms[0](self.square(x)) + self.norms[1](self.row(across)) + self.norms[2](self.column(down))
        return F.relu(y)


def block(size: tuple[int, int] = (11, 13), **options: int) -> Built:
    """Return a block and an input with odd sizes."""
    generator = torch.Generator().manual_seed(3)
    return scramble(ACNet(**options)), (torch.randn(2, 8, *size, generator=generator),)


ONE = {"conv2d": 1, "relu": 1}
CASES = {
    "k3 p1": {},
    "k3 p0, cropped": {"p": 0},
    "k3 p2": {"p": 2},
    "k5 p3 s2": {"k": 5, "p": 3, "s": 2},
    "k5 p1, cropped": {"k": 5, "p": 1},
    "k7 p3 s2 g4": {"k": 7, "p": 3, "s": 2, "g": 4},
    "BatchNorm without scale and shift": {"affine": False},
    "d2, paddings scaled": {"d": 2, "p": 2},
    "d2 p1, cropped by the dilation": {"d": 2, "p": 1},
}
MERGES = tuple(Merge(name, lambda o=options: block(**o), ONE) for name, options in CASES.items())
REFUSALS = (
    Refusal("d2, paddings not scaled", lambda: block(d=2, scaled=False), {}, "cannot be exported"),
    # On a 3×3 image the outputs are 1×1, 3×1 and 1×3: the same block runs, and its additions broadcast.
    Refusal(
        "d2, broadcasting",
        lambda: block((3, 3), d=2, scaled=False),
        {"conv2d": 3, "add": 2},
        reason="add joins values",
        node="add",
    ),
)
