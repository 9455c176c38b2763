"""Polyhistor and bottleneck adapters: `x + s up(act(down(x)))`, the weights made from a task's embedding.

For a fixed task the generated weights are constants, and so is the scale within them; the activation
keeps the adapter itself. Without one, an adapter after a dense layer vanishes into it,
`(I + s U D) W`; alone it stays a bottleneck, since the dense matrix would cost more.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Method, Refusal

METHOD = Method("2.22", "Polyhistor and bottleneck adapters", "arXiv 2210.03265", "M4+M1")


class Generator(nn.Module):
    """Adapter weights of one of three tasks: a template from the task's embedding, times a scale (Kronecker)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.tasks, self.templates = nn.Embedding(3, 6), nn.Linear(6, 2 * rank * (width // 4))
        self.across, self.along = nn.Parameter(torch.empty(1, 4)), nn.Parameter(torch.empty(4, 1))
        self.shape = (rank, width // 4)

    def forward(self, task: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the down, [rank, width], and the up projection, [width, rank]."""
        down, up = self.templates(self.tasks(task)).reshape(2, -1)
        return torch.kron(self.across, down.reshape(self.shape)), torch.kron(
            self.along, up.reshape(self.shape[::-1])
        )


class Adapter(nn.Module):
    """LayerNorm, adapter of generated weights with a scale, residual; the task a buffer or an input."""

    def __init__(self, width: int = 16, rank: int = 3) -> None:
        super().__init__()
        self.norm, self.generator = nn.LayerNorm(width), Generator(width, rank)
        self.scale, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.register_buffer("constant_task", torch.tensor([1]))

    def forward(self, x: torch.Tensor, task: torch.Tensor | None = None) -> torch.Tensor:
        down, up = self.generator(self.constant_task if task is None else task)
        h = F.gelu(F.linear(self.norm(x), down))
        return x + self.scale * (F.linear(h, up) + self.bias)


class Bare(nn.Module):
    """An adapter of generated weights and its residual; the task an input."""

    def __init__(self, width: int = 16, rank: int = 3) -> None:
        super().__init__()
        self.generator = Generator(width, rank)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        down, up = self.generator(task)
        return x + F.linear(F.gelu(F.linear(x, down)), up)


class Identity(nn.Module):
    """An adapter without activation, after a dense layer or alone."""

    def __init__(self, width: int, rank: int, dense: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width) if dense else nn.Identity()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.dense(x)
        return h + self.scale * self.up(self.down(h))


def adapter(*task: torch.Tensor) -> Built:
    return scramble(Adapter()), (sample(2, 5, 16), *task)


def identity(dense: bool, width: int = 16, rows: int = 5) -> Built:
    return scramble(Identity(width, 4, dense)), (sample(2, rows, width),)


TASK = torch.tensor([0])
KEPT = {"layer_norm": 1, "linear": 2, "gelu": 1, "add": 1}

MERGES = (
    Merge("task in a buffer", adapter, KEPT, settings={"constants": 4}),
    Merge(
        "task fixed",
        lambda: adapter(TASK),
        KEPT,
        settings={"freeze": {"task": torch.tensor([2])}, "constants": 4},
    ),
    # One row of either table for each task: the generator has run.
    Merge(
        "task an input, a table of generated weights",
        lambda: (scramble(Bare()), (sample(2, 5, 16), TASK)),
        {"index_select": 2, "linear": 2, "gelu": 1, "add": 1},
        settings={"other": {"task": torch.tensor([2])}, "constants": 2},
        folds=True,
    ),
    Merge("no activation, after a dense layer", lambda: identity(True), {"linear": 1}),
)
REFUSALS = (
    Refusal(
        "the activation stays", adapter, {"linear": 2, "gelu": 1}, reason="gelu is not affine", node="gelu"
    ),
    Refusal(
        "task an input",
        lambda: adapter(TASK),
        {"gelu": 1, "layer_norm": 1, "kron": 0, "embedding": 0},
        "depends on the input 'task'",
        "task",
        settings={"other": {"task": torch.tensor([2])}},
    ),
)
DEARER = (
    Dearer(
        "no activation, alone",
        lambda: identity(False, width=256, rows=256),
        {"linear": 2, "add": 1},
        node="add",
    ),
)
