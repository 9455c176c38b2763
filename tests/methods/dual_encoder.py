"""Dual encoders as classifiers: CLIP, ALIGN, ConVIRT.

`logits = s norm(f_img(x)) norm(f_txt(t))^T`. With fixed prompts the whole text tower is a weight-only subgraph,
and `W_c = s norm(mean over templates of norm(e))` a constant matrix; the average comes after each template's own
normalisation because the train form says so. The image's normalisation stays for calibrated logits. For a
ranking it is a positive factor of each sample: dropped, it lets W_c meet the projection, which pays
where classes are fewer than the embedding is wide.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Exactness, Merge, Method, Refusal

METHOD = Method("2.24", "Dual encoder as classifier", "arXiv 2102.05918, 2010.00747", "M1+M2+M8")


class TextTower(nn.Module):
    """Embedding, linear, GELU, mean over tokens, projection; token ids are [..., length].

    `learned` vectors come before the tokens' own, and `attends` puts a block of attention behind the embedding.
    """

    def __init__(self, width: int, learned: int = 0, attends: bool = False) -> None:
        super().__init__()
        self.embedding, self.hidden, self.project = (
            nn.Embedding(40, 12),
            nn.Linear(12, 18),
            nn.Linear(18, width),
        )
        self.context = nn.Parameter(torch.empty(learned, 12)) if learned else None
        self.attention = Attention(12) if attends else nn.Identity()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        if self.context is not None:
            x = torch.cat([self.context.expand(*x.shape[:-2], -1, -1), x], -2)
        return self.project(F.gelu(self.hidden(self.attention(x))).mean(-2))


class Attention(nn.Module):
    """x + attention(LayerNorm(x)), causal, over the last but one axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.maps, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.maps(self.norm(x)).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (3, -1)).transpose(-2, -3) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        return x + self.out(mixed.transpose(-2, -3).flatten(-2))


class DualEncoder(nn.Module):
    """An image tower and a text tower; prompts, [classes, templates, length], are a buffer or an input."""

    def __init__(
        self,
        classes: int = 5,
        width: int = 16,
        hidden: int = 24,
        templates: int = 1,
        temperature: bool = False,
        **text: int,
    ) -> None:
        super().__init__()
        self.trunk, self.project, self.text = (
            nn.Linear(20, hidden),
            nn.Linear(hidden, width),
            TextTower(width, **text),
        )
        self.log_scale, self.temperature = nn.Parameter(torch.empty(())), temperature
        ids = torch.randint(40, (classes, templates, 6), generator=torch.Generator().manual_seed(4))
        self.register_buffer("ids", ids)

    def classifier(self, ids: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.normalize(self.text(ids), dim=-1).mean(1), dim=-1)

    def forward(self, image: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        features = F.normalize(self.project(F.gelu(self.trunk(image))), dim=-1)
        scale = 1 / self.log_scale if self.temperature else self.log_scale.exp()
        return scale * features @ self.classifier(self.ids if ids is None else ids).mT


def encoder(*given: torch.Tensor, rows: int = 3, **options: int) -> Built:
    return scramble(DualEncoder(**options)), (sample(rows, 20), *given)


def prompts(seed: int) -> torch.Tensor:
    """Return the token ids of five classes."""
    return torch.randint(40, (5, 1, 6), generator=torch.Generator().manual_seed(seed))


CALIBRATED = {"linear": 3, "gelu": 1, "linalg_vector_norm": 1, "clamp_min": 1, "div": 1}
RANKING = {"argmax_only": True}

MERGES = (
    Merge("prompts in a buffer", encoder, CALIBRATED, settings={"constants": 5}),
    Merge("ensemble of templates", lambda: encoder(templates=3), CALIBRATED, settings={"constants": 5}),
    Merge(
        "prompts fixed",
        lambda: encoder(prompts(5)),
        CALIBRATED,
        settings={"freeze": {"ids": prompts(6)}, "constants": 5},
    ),
    *(
        Merge(name, lambda o=options: encoder(**o), CALIBRATED, settings={"constants": 5})
        for name, options in {
            "learned prompts": {"learned": 4},
            "over a temperature": {"temperature": True},
            "attention in the text tower": {"attends": True},
            "learned prompts, attention, templates": {"learned": 4, "attends": True, "templates": 3},
        }.items()
    ),
    Merge("ranking only", encoder, {"linear": 2, "gelu": 1}, Exactness.ARGMAX, RANKING),
)
REFUSALS = (
    Refusal(
        "prompts an input",
        lambda: encoder(prompts(5)),
        {"embedding": 1, "linear": 4, "gelu": 2},
        reason="matmul multiplies values that all depend on the input",
        node="matmul",
    ),
    Refusal(
        "the normalisation stays for calibrated logits",
        encoder,
        {"linear": 3, "linalg_vector_norm": 1},
        reason="linalg_vector_norm is not affine",
        node="linalg_vector_norm",
    ),
)
DEARER = (
    Dearer(
        "ranking, more classes than the embedding is wide",
        lambda: encoder(classes=256, width=8, hidden=256, rows=128),
        {"linear": 3, "linalg_vector_norm": 0},
        node="linear",
        settings=RANKING,
    ),
)
