"""Mixtures of experts: what can be pruned or shared without touching the function.

Exact: the router of a single expert; one run of experts with equal weights, their gates added after the
softmax; an expert whose gate is zero; a constant choice. Not exact: dropping an expert that is seldom chosen, or a
logit of the softmax; merging the duplicates of a top-k router, which changes whom it selects; the
mean of the experts (2.10). A sparse layer is never summed densely, which costs E / k times as much.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.31", "MoE pruning and merging", "various", "M1, M4, M8")


class Expert(nn.Sequential):
    """A two-layer MLP."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(14, 20), nn.ReLU(), nn.Linear(20, 9))


class Mixture(nn.Module):
    """Experts under softmax gates.

    `dead` is an expert without a say: its logit is masked before the softmax, or its gate after it;
    `chosen` makes the router a constant that chooses one.
    """

    def __init__(self, experts: int, dead: str = "", chosen: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(14) if norm else nn.Identity()
        self.router, self.experts = nn.Linear(14, experts), nn.ModuleList(Expert() for _ in range(experts))
        self.register_buffer("mask", torch.arange(experts) == 1)
        self.dead, self.chosen = dead, chosen

    def gates(self, x: torch.Tensor) -> torch.Tensor:
        if self.chosen:
            return F.one_hot(self.router.bias.argmax(), len(self.experts)).to(x.dtype).expand(len(x), -1)
        logits = self.router(x)
        if self.dead == "logit":
            logits = logits.masked_fill(self.mask, float("-inf"))
        gates = logits.softmax(-1)
        return gates * ~self.mask if self.dead == "gate" else gates

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        gates = self.gates(x)
        return sum(gates[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


class TopTwo(nn.Module):
    """Three experts as tables of weights, of which each row gathers two; `renormed` gates add up to one."""

    def __init__(self, renormed: bool = False) -> None:
        super().__init__()
        self.router, self.renormed = nn.Linear(14, 3), renormed
        self.up, self.down = nn.Parameter(torch.empty(3, 20, 14)), nn.Parameter(torch.empty(3, 9, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.router(x).softmax(-1).topk(2)
        hidden = F.relu(torch.einsum("nkhd,nd->nkh", self.up[top.indices], x))
        outputs = torch.einsum("nkoh,nkh->nko", self.down[top.indices], hidden)
        gates = top.values / top.values.sum(-1, keepdim=True) if self.renormed else top.values
        return (gates[..., None] * outputs).sum(1)


class DenseTopTwo(Mixture):
    """Every expert run on every row; gates are zero but for the best two, which add up to one."""

    def gates(self, x: torch.Tensor) -> torch.Tensor:
        gates = super().gates(x)
        gates = torch.where(gates >= gates.topk(2).values[:, -1:], gates, 0.0)
        return gates / gates.sum(-1, keepdim=True)


def mixture(experts: int = 3, **options: object) -> Built:
    return scramble(Mixture(experts, **options)), (sample(7, 14),)


def twins(module: Mixture) -> Built:
    """Return a mixture whose last two experts have equal weights, in tensors of their own."""
    scramble(module)
    module.experts[2].load_state_dict(module.experts[1].state_dict())
    return module, (sample(7, 14),)


def top_two(twins: bool = True, renormed: bool = False) -> Built:
    module = scramble(TopTwo(renormed))
    if not twins:
        return module, (sample(7, 14),)
    with torch.no_grad():
        module.up[2], module.down[2] = module.up[1], module.down[1]
    return module, (sample(7, 14),)


def weighed(experts: int) -> dict[str, int]:
    """Return what `experts` experts and their gates cost, without slices and gate sums."""
    return {"linear": 1 + 2 * experts, "relu": experts, "softmax": 1, "mul": experts}


EXPERT = {"linear": 2, "relu": 1}

MERGES = (
    Merge("one expert", lambda: mixture(1), EXPERT, folds=True),
    # The router keeps three logits; one row of a matrix, 0 1 1, adds the twins' gates.
    Merge("equal experts", lambda: twins(Mixture(3)), {**weighed(2), "linear": 6, "slice": 1, "add": 1}),
    Merge("logit masked out", lambda: mixture(dead="logit"), {**weighed(2), "slice": 2, "add": 1}),
    Merge("gate masked out", lambda: mixture(dead="gate"), {**weighed(2), "slice": 2, "add": 1}),
    Merge("constant choice", lambda: mixture(chosen=True), EXPERT, folds=True),
    # Weights and biases of router and experts, and nothing of the LayerNorm.
    Merge(
        "LayerNorm before router and experts",
        lambda: mixture(2, norm=True),
        {**weighed(2), "layer_norm": 1, "slice": 2, "add": 1},
        settings={"constants": 10},
    ),
)
SPARSE = {"linear": 1, "topk": 1, "index": 2, "softmax": 1, "matmul": 2}
TWO_EACH = {"macs": 7 * (14 * 3 + 2 * (20 * 14 + 9 * 20))}
REFUSALS = (
    Refusal(
        "equal experts under top-2",
        top_two,
        SPARSE,
        reason="softmax is not affine",
        node="softmax",
        settings=TWO_EACH,
    ),
    # Run densely, every row would pay for three experts.
    *(
        Refusal(f"top-2 {name}", lambda r=r: top_two(False, r), SPARSE, "mul multiplies", settings=TWO_EACH)
        for name, r in (("stays sparse", False), ("renormed stays sparse", True))
    ),
    # Run densely the twins may share their run; the router keeps its three logits.
    Refusal(
        "equal experts under top-2, run densely",
        lambda: twins(DenseTopTwo(3)),
        {"topk": 1, "softmax": 1, "where": 1},
        reason="where is not affine",
        node="where",
    ),
    Refusal(
        "logit masked out under top-2, run densely",
        lambda: (scramble(DenseTopTwo(3, dead="logit")), (sample(7, 14),)),
        {"topk": 1, "softmax": 1, "where": 1},
        reason="masked_fill is not affine",
        node="masked_fill",
    ),
    Refusal("experts that differ", mixture, weighed(3), reason="relu is not affine", node="relu"),
)
