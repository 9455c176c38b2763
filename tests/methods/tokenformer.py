"""TokenFormer: attention to parameter tokens, `y = theta(x K^T s) V`, a nonlinear layer that stays one.

theta is GELU and an L2 normalisation over the n tokens times sqrt(n), in either order. Around it fold: s and a
LayerNorm before it into K (its shift becomes a bias for each token), sqrt(n) into V where the normalisation
comes last, the all-ones attention bias, and a dropout of probability 0. A token with a zero key gives
GELU(0) = 0 and can go, as long as the old sqrt(n) stays; under a softmax it would give exp(0) = 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.32", "TokenFormer Pattention", "arXiv 2410.23168", "M2, M8")
TOKENS = 10


class Pattention(nn.Module):
    """LayerNorm, then attention to `TOKENS` parameter tokens; theta is "gelu_l2", "l2_gelu" or "softmax"."""

    def __init__(self, theta: str = "gelu_l2", dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(14)
        self.keys, self.values = nn.Parameter(torch.empty(TOKENS, 14)), nn.Parameter(torch.empty(TOKENS, 9))
        self.theta, self.dropout = theta, dropout

    def weigh(self, scores: torch.Tensor) -> torch.Tensor:
        if self.theta == "softmax":
            return scores.softmax(-1)
        scores = F.gelu(scores) if self.theta == "gelu_l2" else scores
        scores = scores / torch.norm(scores, p=2, dim=-1, keepdim=True) * math.sqrt(scores.shape[-1])
        return scores if self.theta == "gelu_l2" else F.gelu(scores)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.norm(x) @ self.keys.mT * (1.3 / math.sqrt(14))
        bias = torch.ones(x.shape[-2], TOKENS, dtype=x.dtype)
        weights = F.dropout(self.weigh(scores) * bias, self.dropout, training=True)
        return weights @ self.values


def layer(theta: str = "gelu_l2", dropout: float = 0.0, live: int = TOKENS) -> Built:
    """Return a layer of which the first `live` tokens have keys that are not zero."""
    module = scramble(Pattention(theta, dropout))
    with torch.no_grad():
        module.keys[live:] = 0
    return module, (sample(2, 5, 14),)


STAYS = {"layer_norm": 1, "linear": 2, "gelu": 1, "linalg_vector_norm": 1, "div": 1}
ROWS = 2 * 5

MERGES = (
    # Two matrices and the bias that the LayerNorm's shift becomes.
    Merge("normalised last", layer, STAYS, settings={"constants": 3}),
    Merge("normalised first", lambda: layer("l2_gelu"), {**STAYS, "mul": 1}),
    Merge(
        "tokens with zero keys",
        lambda: layer(live=6),
        STAYS,
        settings={"macs": ROWS * 6 * (14 + 9)},
    ),
    Merge(
        "tokens with zero keys, normalised first",
        lambda: layer("l2_gelu", live=6),
        {**STAYS, "mul": 1},
        settings={"macs": ROWS * 6 * (14 + 9)},
    ),
)
REFUSALS = (
    Refusal("no dense form", layer, {"linear": 2, "gelu": 1}, reason="gelu is not affine", node="gelu"),
    Refusal(
        "zero keys under a softmax",
        lambda: layer("softmax", live=6),
        {"softmax": 1, "linear": 2},
        reason="softmax is not affine",
        node="softmax",
    ),
    Refusal("dropout that drops", lambda: layer(dropout=0.1), {}, "training mode"),
)
