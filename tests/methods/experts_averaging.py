"""Experts Weights Averaging: the mean of E experts' weights is another function, never an exact merge.

In training the tokens are split by a random partition that no input decides. Folding it would freeze one
draw, and the averaged FFN equals the experts only where they coincide. Averaging is offline work on
weights, with a measured deviation: `compiler/compress` offers it. What is exact: experts that are linear
and all read by each token are a parallel sum.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal
from tests.models.small import Sum

METHOD = Method("2.10", "Experts Weights Averaging", "arXiv 2308.06093", "M5")


class Experts(nn.Module):
    """Experts `base + ε noise` on equal shares of the tokens; `order` is the partition, or None: drawn."""

    def __init__(self, spread: float, order: torch.Tensor | None = None, linear: bool = False) -> None:
        super().__init__()
        self.experts = nn.ModuleList(expert(linear) for _ in range(2))
        self.spread = spread
        self.register_buffer("order", order)

    def drawn_together(self) -> Experts:
        """Return self with the second expert drawn near the first."""
        for p, q in zip(*(e.parameters() for e in self.experts), strict=True):
            q.data.mul_(self.spread).add_(p.data)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(x)) if self.order is None else self.order
        shares = x[order].chunk(len(self.experts))
        routed = torch.cat([expert(share) for expert, share in zip(self.experts, shares, strict=True)])
        return routed[order.argsort()]


def expert(linear: bool = False) -> nn.Module:
    """Return one FFN."""
    return nn.Sequential(nn.Linear(8, 16), nn.Identity() if linear else nn.GELU(), nn.Linear(16, 8))


def block(module: nn.Module, tokens: int = 10) -> Built:
    """Return a module and an input of some tokens."""
    generator = torch.Generator().manual_seed(11)
    module = scramble(module)
    if isinstance(module, Experts):
        module.drawn_together()
    return module, (torch.randn(tokens, 8, generator=generator),)


def averaged() -> Built:
    """Return what is deployed: one FFN with the mean of the weights."""
    experts, inputs = block(Experts(0.1))
    ffn = expert()
    for p, *parts in zip(ffn.parameters(), *(e.parameters() for e in experts.experts), strict=True):
        p.data.copy_(torch.stack(parts).mean(0))
    return ffn.eval(), inputs


def fixed(spread: float) -> Built:
    """Return experts under a partition that is a constant of the model."""
    return block(Experts(spread, torch.randperm(10, generator=torch.Generator().manual_seed(12))))


MERGES = (
    Merge("the averaged FFN", averaged, {"linear": 2, "gelu": 1}, folds=True),
    Merge(
        "linear experts, each reads all tokens", lambda: block(Sum(expert(True), expert(True))), {"linear": 1}
    ),
)
REFUSALS = (
    *(
        Refusal(f"random partition, ε {e}", lambda e=e: block(Experts(e)), {}, "random")
        for e in (1.0, 0.01, 0.0)
    ),
    Refusal("random partition of linear experts", lambda: block(Experts(1.0, linear=True)), {}, "random"),
    *(
        Refusal(
            f"fixed partition, ε {e}", lambda e=e: fixed(e), {"linear": 4, "gelu": 2}, "gelu is not affine"
        )
        for e in (1.0, 0.01)
    ),
)
