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
    """Embedding, linear, GELU, mean over tokens, projection; token ids are [..., length]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.hidden, self.project = (
            nn.Embedding(40, 12),
            nn.Linear(12, 18),
            nn.Linear(18, width),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.project(F.gelu(self.hidden(self.embedding(ids))).mean(-2))


class DualEncoder(nn.Module):
    """An image tower and a text tower; prompts, [classes, templates, length], are a buffer or an input."""

    def __init__(self, classes: int = 5, width: int = 16, hidden: int = 24, templates: int = 1) -> None:
        super().__init__()
        self.trunk, self.project, self.text = (
            nn.Linear(20, hidden),
            nn.Linear(hidden, width),
            TextTower(width),
        )
        self.log_scale = nn.Parameter(torch.empty(()))
        ids = torch.randint(40, (classes, templates, 6), generator=torch.Generator().manual_seed(4))
        self.register_buffer("ids", ids)

    def classifier(self, ids: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.normalize(self.text(ids), dim=-1).mean(1), dim=-1)

    def forward(self, image: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        features = F.normalize(self.project(F.gelu(self.trunk(image))), dim=-1)
        return self.log_scale.exp() * features @ self.classifier(self.ids if ids is None else ids).mT


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
    Merge("ranking only", encoder, {"linear": 2, "gelu": 1}, Exactness.ARGMAX, RANKING),
)
REFUSALS = (
    Refusal("prompts an input", lambda: encoder(prompts(5)), {"embedding": 1, "linear": 4, "gelu": 2}),
    Refusal("the normalisation stays for calibrated logits", encoder, {"linear": 3, "linalg_vector_norm": 1}),
)
DEARER = (
    Dearer(
        "ranking, more classes than the embedding is wide",
        lambda: encoder(classes=256, width=8, hidden=256, rows=128),
        {"linear": 3, "linalg_vector_norm": 0},
        RANKING,
    ),
)
