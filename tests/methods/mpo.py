"""CompactifAI: a linear weight as matrix product operator cores, contracted in the cheapest order.

`W[(i1, i2), (j1, j2)] = sum_c A[i1, j1, c] B[c, i2, j2]`. Of the dense multiply-accumulates, B first costs
`c / I1 + c / J2`, A first `c / I2 + c / J1`; dense wins where both are 1 or more, or where a launch outweighs the
arithmetic.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method

METHOD = Method("2.28", "CompactifAI (matrix product operators)", "arXiv 2401.14109", "M6")


class Mpo(nn.Module):
    """Two cores; `order` is the core that meets the input first, or "weight" where the two meet first."""

    def __init__(self, outs: tuple[int, int], ins: tuple[int, int], rank: int, order: str) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(outs[0], ins[0], rank))
        self.b = nn.Parameter(torch.empty(rank, outs[1], ins[1]))
        self.bias = nn.Parameter(torch.empty(outs[0] * outs[1]))
        self.ins, self.order = ins, order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, *self.ins)
        if self.order == "a":
            y = torch.einsum("nkic,cok->nio", torch.einsum("njk,ijc->nkic", x, self.a), self.b)
        elif self.order == "b":
            y = torch.einsum("njco,ijc->nio", torch.einsum("njk,cok->njco", x, self.b), self.a)
        else:
            y = torch.einsum("iojk,njk->nio", torch.einsum("ijc,cok->iojk", self.a, self.b), x)
        return y.flatten(1) + self.bias


class ThreeCores(nn.Module):
    """Three cores, met one after the other."""

    def __init__(self) -> None:
        super().__init__()
        shapes = (3, 2, 4), (4, 2, 5, 3), (3, 3, 2)
        self.a, self.b, self.c = (nn.Parameter(torch.empty(s)) for s in shapes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.einsum("njkl,ijc->nklic", x.reshape(-1, 2, 5, 2), self.a)
        x = torch.einsum("nklic,cokd->nliod", x, self.b)
        return torch.einsum("nliod,dpl->niop", x, self.c).flatten(1)


def small(order: str) -> Built:
    """Return cores of full rank: both factored orders cost more than the dense layer."""
    return scramble(Mpo((4, 5), (3, 4), 8, order)), (sample(7, 12),)


ROWS = 16


def large(order: str) -> Built:
    """Return cores of rank 2: A first costs a sixteenth of dense, B first a quarter."""
    return scramble(Mpo((16, 64), (64, 16), 2, order)), (sample(ROWS, 1024),)


A_FIRST = {"macs": ROWS * 1024 * 1024 // 16}

MERGES = (
    Merge("full rank, A first", lambda: small("a"), {"linear": 1}),
    Merge("full rank, B first", lambda: small("b"), {"linear": 1}),
    Merge("full rank, contracted in the forward", lambda: small("weight"), {"linear": 1}),
    Merge("three cores", lambda: (scramble(ThreeCores()), (sample(7, 20),)), {"linear": 1}),
    # The core that meets rows of the input as they lie is a 1x1 convolution, the other one a linear.
    Merge(
        "low rank, B first where A first is cheaper",
        lambda: large("b"),
        {"conv1d": 1, "permute": 2, "linear": 1, "add": 1},
        settings=A_FIRST,
    ),
)
DEARER = (
    Dearer(
        "low rank, A first",
        lambda: large("a"),
        {"conv1d": 1, "permute": 2, "linear": 1, "add": 1},
        "no order of contracting",
        "einsum",
        A_FIRST,
    ),
)
