"""DECOR: the embeddings of a prompt without their part in an undesired subspace.

`X' = X - a X P`, `P = V V^T` from the top singular vectors of a fixed set, read by the key and value
projections of cross attention: `W' = W (I - a P)`. With a fixed prompt the keys and values are constants.
A projection that differs between tokens, or whose result something else reads, stays.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.23", "DECOR projection", "arXiv 2412.09169", "M1+M2")
WIDTH = 12


class Projection(nn.Module):
    """`x - a x V V^T`: V from a buffer, or by SVD of undesired embeddings in the forward."""

    def __init__(self, svd: bool = False, per_token: torch.Tensor | None = None) -> None:
        super().__init__()
        undesired = sample(5, WIDTH, seed=4)
        top = torch.linalg.svd(undesired, full_matrices=False).Vh[:2]
        self.register_buffer("subspace", undesired if svd else top)
        self.strength = nn.Parameter(torch.empty(()))
        self.register_buffer("per_token", per_token)
        self.svd = svd

    def forward(
        self, x: torch.Tensor, strength: torch.Tensor | None = None, subspace: torch.Tensor | None = None
    ) -> torch.Tensor:
        found = self.subspace if subspace is None else subspace
        top = torch.linalg.svd(found, full_matrices=False)[2][:2] if self.svd else found
        removed = (self.strength if strength is None else strength) * (x @ top.mT) @ top
        return x - (removed if self.per_token is None else self.per_token * removed)


class KeyValue(nn.Module):
    """Key and value projections of the projected prompt; `tapped` also returns a gate on it."""

    def __init__(self, tapped: bool = False, **options: object) -> None:
        super().__init__()
        self.project = Projection(**options)
        self.key, self.value = nn.Linear(WIDTH, 9, bias=False), nn.Linear(WIDTH, 10)
        self.tapped = tapped

    def forward(self, prompt: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cleaned = self.project(prompt, *given)
        outputs = self.key(cleaned), self.value(cleaned)
        return (*outputs, cleaned.sigmoid()) if self.tapped else outputs


class CrossAttention(nn.Module):
    """Attention of an image to the projected prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.project = Projection()
        self.query, self.key, self.value = nn.Linear(14, 9), nn.Linear(WIDTH, 9), nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        cleaned = self.project(prompt)
        return F.scaled_dot_product_attention(self.query(x), self.key(cleaned), self.value(cleaned))


def prompt(module: nn.Module, *given: torch.Tensor) -> Built:
    return scramble(module), (sample(2, 7, WIDTH), *given)


def attention() -> Built:
    return scramble(CrossAttention()), (sample(2, 11, 14), sample(2, 7, WIDTH, seed=5))


# Seven tokens, the first two of which are left alone.
SUBSET = torch.tensor([0.0, 0, 1, 1, 1, 1, 1])[:, None]

MERGES = (
    Merge("key and value", lambda: prompt(KeyValue()), {"linear": 2}),
    Merge("SVD in the forward", lambda: prompt(KeyValue(svd=True)), {"linear": 2}),
    Merge("cross attention", attention, {"linear": 3, "scaled_dot_product_attention": 1}),
    Merge(
        "prompt fixed",
        attention,
        {"linear": 1, "scaled_dot_product_attention": 1},
        settings={"freeze": {"prompt": sample(2, 7, WIDTH, seed=6)}},
        folds=True,
    ),
)
REFUSALS = (
    Refusal(
        "strength of each token an input",
        lambda: prompt(KeyValue(), sample(2, 7, 1, seed=5)),
        {"linear": 3, "matmul": 1, "mul": 1, "sub": 1},
        reason="mul multiplies values that all depend on the input",
        node="mul",  # one basis read both ways is stored once
    ),
    Refusal(
        "subspace an input",
        lambda: prompt(KeyValue(), torch.tensor(0.6), sample(2, WIDTH, seed=5)),
        {"linear": 2, "matmul": 2, "sub": 1},
        reason="matmul multiplies values that all depend on the input",
        node="matmul",
    ),
    Refusal(
        "a subset of tokens",
        lambda: prompt(KeyValue(per_token=SUBSET)),
        {"linear": 3, "mul": 1, "sub": 1},
        "scales each position",
        "mul",
    ),
    # One dense I - a P, read three times: the linears stay two.
    Refusal("another reader", lambda: prompt(KeyValue(tapped=True)), {"linear": 3, "sigmoid": 1}, "read"),
)
