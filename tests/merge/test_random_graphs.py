"""Random graphs of affine and other operations, with fan-out and shared weights: merging keeps every one."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from compiler.ir.graph import Graph
from compiler.merge import engine, merge
from tests.models.small import compile_graph, error, randomize

pytestmark = pytest.mark.thorough

CHANNELS = 4
NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)  # a graph takes a second: shrinking takes minutes


def _layers(generator: random.Random) -> dict[str, nn.Module]:
    """Return the layers a graph draws from: using one twice shares its weights."""
    conv = nn.Conv2d
    return {
        "point": conv(CHANNELS, CHANNELS, 1),
        "dense": conv(CHANNELS, CHANNELS, 3, padding=1),
        "valid": nn.Sequential(nn.ZeroPad2d(1), conv(CHANNELS, CHANNELS, 3)),
        "depthwise": conv(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        "grouped": conv(CHANNELS, CHANNELS, 1, groups=2, bias=False),
        "reflect": conv(CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect"),
        "norm": nn.BatchNorm2d(CHANNELS),
        "pool": nn.AvgPool2d(3, 1, 1),
        "shuffle": nn.ChannelShuffle(2),
        "linear": _LastAxis(nn.Linear(CHANNELS, CHANNELS)),
        "layer_norm": _LastAxis(nn.LayerNorm(CHANNELS)),
        "relu": nn.ReLU(),
        "sigmoid": nn.Sigmoid(),
    }


class _LastAxis(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RandomGraph(nn.Module):
    """`steps` name a layer and the values it reads: one, or two that are combined first."""

    def __init__(self, steps: list[tuple[str, int, int, str]], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleDict(_layers(random.Random(seed)))
        self.steps = steps

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x]
        for name, first, second, how in self.steps:
            a, b = values[first % len(values)], values[second % len(values)]
            if how == "add":
                a = a + 0.5 * b
            elif how == "sub":
                a = a - b
            elif how == "mul":
                a = a * b
            elif how == "cat":
                a = torch.cat([a, b], 1)[:, 1 : 1 + CHANNELS]
            values.append(self.layers[name](a))
        return values[-1], F.relu(values[len(values) // 2])


STEP = st.tuples(
    st.sampled_from(sorted(_layers(random.Random(0)))),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from(["one", "one", "add", "sub", "mul", "cat"]),
)


def drawn(steps: list[tuple[str, int, int, str]], seed: int) -> nn.Module:
    return randomize(RandomGraph(steps, seed), seed)


GRAPHS = st.builds(
    drawn,
    st.lists(STEP, min_size=2, max_size=8),
    st.integers(0, 9),
)
X = torch.randn(2, CHANNELS, 7, 6, generator=torch.Generator().manual_seed(0))


# A later region takes an earlier one over, whose root nothing reads any more.
TAKEN_OVER = [
    ("linear", 7, 2, "sub"),
    ("depthwise", 3, 6, "sub"),
    ("linear", 6, 6, "one"),
    ("pool", 2, 4, "one"),
    ("reflect", 5, 1, "sub"),
    ("dense", 5, 7, "one"),
    ("pool", 0, 1, "add"),
    ("point", 1, 7, "cat"),
]


def imported(module: nn.Module) -> Graph:
    return compile_graph(module.double(), X.double())


@settings(max_examples=30, phases=NO_SHRINK, deadline=None, suppress_health_check=list(HealthCheck))
@given(GRAPHS)
def test_merged_equals_the_original(module: nn.Module) -> None:
    merged, attempts = merge(imported(module))
    assert error(merged, module, (X,)) < 1e-9
    assert all(a.residual is None or a.residual < 1e-9 for a in attempts)


@settings(max_examples=10, phases=NO_SHRINK, deadline=None, suppress_health_check=list(HealthCheck))
@given(GRAPHS)
def test_merging_again_changes_nothing(module: nn.Module) -> None:
    once, _ = merge(imported(module))
    twice, _ = merge(once)
    assert twice.histogram() == once.histogram()
    assert error(twice, module, (X,)) < 1e-9


@settings(max_examples=10, phases=NO_SHRINK, deadline=None, suppress_health_check=list(HealthCheck))
@example(drawn(TAKEN_OVER, 6), 76)
@given(GRAPHS, st.integers(0, 99))
def test_the_order_of_regions_does_not_matter(module: nn.Module, seed: int) -> None:
    graph = imported(module)
    straight, _ = merge(graph)
    shuffled = engine.visited
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine,
            "visited",
            lambda regions: random.Random(seed).sample(shuffled(regions), len(shuffled(regions))),
        )
        mixed, _ = merge(graph)
    assert mixed.histogram() == straight.histogram()
    assert {c.digest for c in mixed.constants.values()} == {c.digest for c in straight.constants.values()}
