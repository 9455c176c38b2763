"""LoRA, and GLAD which trains it otherwise: a low-rank branch beside a frozen weight.

`W' = W + s B A`; for a convolution the k x k down projection with the base's stride and padding, then
the 1x1 up. Refused wherever the base serves something else: another branch, an embedding, another
adapter, or an integer file.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compiler.ir.schema import overload
from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

METHOD = Method("2.21", "LoRA and GLAD", "arXiv 2507.13089", "M2+M3")


class Lora(nn.Module):
    """A base, or none, with a low-rank branch; `active` keeps the branch's dropout on in eval."""

    def __init__(self, base: nn.Module | None, down: nn.Module, up: nn.Module, active: bool = False) -> None:
        super().__init__()
        self.base, self.down, self.up, self.active = base, down, up, active

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = 0.7 * self.up(self.down(F.dropout(x, 0.25, training=self.training or self.active)))
        return branch if self.base is None else self.base(x) + branch


class Swappable(nn.Module):
    """Three adapters on one base; `adapter`, [1], says which."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(12, 10)
        self.down, self.up = nn.Parameter(torch.empty(3, 2, 12)), nn.Parameter(torch.empty(3, 10, 2))

    def forward(self, x: torch.Tensor, adapter: torch.Tensor) -> torch.Tensor:
        down = self.down.index_select(0, adapter).reshape(2, 12)
        up = self.up.index_select(0, adapter).reshape(10, 2)
        return self.base(x) + 0.7 * F.linear(F.linear(x, down), up)


class Concurrent(nn.Module):
    """Three adapters on one base; `adapter`, [N], says which for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(12, 10)
        self.down, self.up = nn.Parameter(torch.empty(3, 12, 2)), nn.Parameter(torch.empty(3, 2, 10))

    def forward(self, x: torch.Tensor, adapter: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 0.7 * torch.bmm(torch.bmm(x, self.down[adapter]), self.up[adapter])


class Quantised(nn.Module):
    """A base of int8 weights, with a scale for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", (sample(10, 12) * 40).clamp(-127, 127).to(torch.int8))
        self.register_buffer("scales", sample(10, seed=4).abs().double() * 0.01)
        self.register_buffer("zeros", torch.zeros(10, dtype=torch.int64))
        self.down, self.up = nn.Linear(12, 2, bias=False), nn.Linear(2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dequantize = overload("quantized_decomposed.dequantize_per_channel.default")
        weight = dequantize(self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8)
        return F.linear(x, weight.to(x.dtype)) + 0.7 * self.up(self.down(x))


class Tied(nn.Module):
    """An embedding and a head of one weight; the adapter is on the head only."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 24)
        self.down, self.up = nn.Linear(24, 2, bias=False), nn.Linear(2, 300, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embedding(ids).tanh()
        return F.linear(h, self.embedding.weight) + 0.7 * self.up(self.down(h))


class SharedBase(nn.Module):
    """One weight on two branches, an adapter on one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(96, 96)
        self.down, self.up = nn.Linear(96, 1, bias=False), nn.Linear(1, 96, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.base(x).relu()
        return self.base(h) + 0.7 * self.up(self.down(h))


def tokens(module: nn.Module, *others: torch.Tensor, width: int = 12) -> Built:
    return scramble(module), (sample(2, 5, width), *others)


def linear(active: bool = False) -> Built:
    return tokens(Lora(nn.Linear(12, 10), nn.Linear(12, 2, bias=False), nn.Linear(2, 10, bias=False), active))


def convolution(groups: int = 1) -> Built:
    """Return a 3x3 stride-2 base, its down projection of the same geometry, and a 1x1 up."""
    base, down = nn.Conv2d(8, 12, 3, 2, 1, groups=groups), nn.Conv2d(8, 4, 3, 2, 1, groups=groups, bias=False)
    up = nn.Conv2d(4, 12, 1, groups=groups, bias=False)
    return scramble(Lora(base, down, up)), (sample(2, 8, 11, 13),)


MERGES = (
    Merge("linear", linear, {"linear": 1}),
    Merge("conv", convolution, {"conv2d": 1}),
    Merge("grouped conv", lambda: convolution(groups=2), {"conv2d": 1}),
    Merge(
        "one adapter fixed",
        lambda: tokens(Swappable(), torch.tensor([0])),
        {"linear": 1},
        settings={"freeze": {"adapter": torch.tensor([1])}},
    ),
)
REFUSALS = (
    Refusal("dropout active", lambda: linear(active=True), {}, "training mode"),
    Refusal(
        "adapters swapped at run time",
        lambda: tokens(Swappable(), torch.tensor([0])),
        {"linear": 3, "index_select": 2},
        "depends on the input 'adapter'",
        "adapter",
        settings={"other": {"adapter": torch.tensor([2])}},
    ),
    Refusal(
        "several adapters served at once",
        lambda: tokens(Concurrent(), torch.tensor([2, 0])),
        {"linear": 1, "bmm": 2, "index": 2, "add": 1},
        reason="bmm multiplies values that all depend on the input",
        node="bmm",
    ),
    Refusal(
        # The adapter's own factors may merge; the int8 base is not touched.
        "quantised base",
        lambda: tokens(Quantised()),
        {"linear": 2, "dequantize_per_channel": 1},
        "its weight depends on",
    ),
    Refusal(
        "base tied to an embedding",
        lambda: (scramble(Tied()), (torch.tensor([[3, 141, 59, 26]]),)),
        {"embedding": 1, "linear": 3},
        "un-shares",
    ),
    Refusal("base shared by branches", lambda: tokens(SharedBase(), width=96), {"linear": 4}, "un-shares"),
)
DEARER = (
    Dearer(
        "factors without a base",
        lambda: (scramble(Lora(None, nn.Linear(128, 4), nn.Linear(4, 128))), (sample(2, 512, 128),)),
        {"linear": 2},
        node="linear",
    ),
)
