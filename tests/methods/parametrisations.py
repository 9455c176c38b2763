"""weight_norm, spectral_norm, orthogonal and the like: weights computed from other weights.

In eval all are weight-only subgraphs, and the BatchNorm behind them folds as behind any layer. Not so where
spectral_norm still trains: each call then changes its vectors u and v; nor where the data decide.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.30", "Weight parametrisations", "arXiv 1602.07868, 1802.05957", "M1")

Apply = Callable[[nn.Module], nn.Module]


class Companded(nn.Module):
    """A custom parametrisation: a rotation by the exponential of the skew part, on the square of the weight."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        square = weight.flatten(1) @ weight.flatten(1).mT
        skew = square.triu(1) - square.triu(1).mT
        return (torch.linalg.matrix_exp(0.1 * skew) @ weight.flatten(1)).reshape(weight.shape)


class PowerIteration(nn.Module):
    """A linear layer over its spectral norm, whose vector u moves on at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 10)
        self.register_buffer("u", sample(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.linear.weight
        v = F.normalize(weight.mT @ self.u, dim=0)
        u = F.normalize(weight @ v, dim=0)
        self.u.copy_(u)
        return F.linear(x, weight / (u @ weight @ v), self.linear.bias)


class StillTraining(nn.Linear):
    """A linear layer that eval() does not reach."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


class FromData(nn.Module):
    """A weight scaled by the norm of what it is about to multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.linear.weight / (1 + x.norm()), self.linear.bias)


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


def custom(module: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(module, "weight", Companded())


def householder(module: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(module, orthogonal_map="householder")


def drawn(*parts: nn.Module) -> nn.Module:
    """Return parts in a row, scrambled; the diagonal that Householder reflections read holds signs."""
    module = scramble(nn.Sequential(*parts))
    original = parametrize.is_parametrized(parts[0]) and getattr(
        parts[0].parametrizations.weight, "original", None
    )
    if torch.is_tensor(original):
        with torch.no_grad():
            original.diagonal(dim1=-2, dim2=-1).sign_()
    return module


def rows(module: nn.Module) -> Built:
    return drawn(module, nn.BatchNorm1d(10)), (sample(7, 12),)


def image(module: nn.Module) -> Built:
    return drawn(module, nn.BatchNorm2d(10)), (sample(2, 6, 11, 13),)


APPLIED: dict[str, Apply] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm over columns": lambda m: parametrizations.weight_norm(m, dim=1),
    "weight_norm of the whole": lambda m: parametrizations.weight_norm(m, dim=None),
    "weight_norm by hooks": old_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "custom": custom,
    "orthogonal by exponential": lambda m: parametrizations.orthogonal(m, orthogonal_map="matrix_exp"),
    "orthogonal by Cayley": lambda m: parametrizations.orthogonal(m, orthogonal_map="cayley"),
    "orthogonal by Householder": householder,
}

MERGES = (
    *(
        Merge(f"{name}, linear", lambda a=a: rows(a(nn.Linear(12, 10))), {"linear": 1})
        for name, a in APPLIED.items()
    ),
    *(
        Merge(f"{name}, conv", lambda a=a: image(a(nn.Conv2d(6, 10, 3, 2, 1))), {"conv2d": 1})
        for name, a in APPLIED.items()
    ),
)
REFUSALS = (
    Refusal(
        "spectral_norm in training mode",
        lambda: rows(parametrizations.spectral_norm(StillTraining(12, 10))),
        {},
        "training mode",
    ),
    Refusal(
        "power iteration at every call", lambda: rows(PowerIteration()), {"div": 3, "linear": 1}, "state"
    ),
    Refusal(
        "weight from the data", lambda: rows(FromData()), {"div": 1}, "depends on the input 'input'", "input"
    ),
)
