"""Scales that move: behind a homogeneous operation, and along a residual stream."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.merge import Outcome
from tests.models.small import merged

pytestmark = pytest.mark.core


def drawn(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


class Scaled(nn.Module):
    """A per-channel scale, an activation, and a padded convolution that reads it."""

    def __init__(self, activation: nn.Module, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.reshape(1, -1, 1, 1))
        self.activation, self.conv = activation, nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.activation(x * self.scale))


class Stream(nn.Module):
    """`a (h + inner(h)) + b` of a written stream; `norm` is what reads it."""

    def __init__(self, norm: nn.Module, alpha: float = 1.0) -> None:
        super().__init__()
        self.write, self.norm, self.alpha = nn.Linear(8, 8), norm, alpha
        self.inner = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.scale, self.shift = nn.Parameter(drawn(8, seed=1)), nn.Parameter(drawn(8, seed=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.write(x)
        return torch.add(h, self.inner(self.norm(h)), alpha=self.alpha) * self.scale + self.shift


POSITIVE = drawn(8, seed=3).abs() + 0.3
HOMOGENEOUS = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.1), "max_pool2d": nn.MaxPool2d(3, 2, 1)}


@pytest.mark.parametrize("name", HOMOGENEOUS)
@pytest.mark.parametrize("positive", [True, False])
def test_a_scale_goes_behind_a_homogeneous_operation_where_it_is_positive(name: str, positive: bool) -> None:
    scale = POSITIVE.clone()
    scale[3] *= 1 if positive else -1
    torch.manual_seed(0)
    graph, _ = merged(Scaled(HOMOGENEOUS[name], scale), drawn(2, 8, 9, 11))
    wanted = {name: 1, "conv2d": 1} | ({} if positive else {"mul": 1})
    assert {op.split(".")[1]: n for op, n in graph.histogram().items()} == wanted


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Sigmoid()], ids=lambda m: type(m).__name__)
def test_a_scale_stays_ahead_of_what_is_not_homogeneous(activation: nn.Module) -> None:
    torch.manual_seed(0)
    graph, _ = merged(Scaled(activation, POSITIVE), drawn(2, 8, 9, 11))
    assert graph.histogram()["aten.mul.Tensor"] == 1


@pytest.mark.parametrize(
    "norm", [nn.Identity(), nn.LayerNorm(8), nn.RMSNorm(8)], ids=lambda m: type(m).__name__
)
def test_a_norm_that_reads_the_stream_keeps_the_scale_at_its_end(norm: nn.Module) -> None:
    torch.manual_seed(0)
    free = isinstance(norm, nn.Identity)
    graph, attempts = merged(Stream(norm), drawn(2, 7, 8))
    assert graph.histogram().get("aten.mul.Tensor", 0) == (0 if free else 1)
    gauged = [a for a in attempts if a.reason.startswith("gauge") or "of the stream absorb it" in a.reason]
    assert [a.outcome for a in gauged] == [Outcome.MERGED if free else Outcome.REFUSED]
    blamed = "read by an operation that is not linear" in gauged[0].reason and "norm" in gauged[0].node
    assert blamed == (not free)


def test_a_weighted_sum_is_no_stream_whose_last_writer_could_take_the_shift() -> None:
    torch.manual_seed(0)
    graph, _ = merged(Stream(nn.Identity(), alpha=2.0), drawn(2, 7, 8))  # held to equality
    assert graph.histogram()["aten.mul.Tensor"] == 1
