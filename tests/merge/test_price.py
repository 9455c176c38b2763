"""The price decides between equal forms: by a table where it knows the kernels, else by the prior."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compiler.cost.kernel import Kernel, kernel_counts
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.ir.graph import Graph
from compiler.merge import Outcome, merge
from compiler.merge.open_choices import open_kernels
from compiler.records import Metric
from tests.models.small import ConvNorm, Sum, compile_graph, error, randomize

pytestmark = pytest.mark.core


def table(kernels: tuple[Kernel, ...], cost) -> LatencyTable:
    """Return a table that `cost(kernel)` fills."""
    entries = {k.text: Entry(cost(k), cost(k), cost(k)) for k in kernels}
    return LatencyTable("bench", "fake", 1, Metric.WALL, entries)


def in_float64(module: nn.Module, *inputs: torch.Tensor) -> tuple[Graph, nn.Module, tuple[torch.Tensor, ...]]:
    module = copy.deepcopy(module).double().eval()
    wide = tuple(x.double() for x in inputs)
    return compile_graph(module, *wide), module, wide


def depthwise(size: int) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(8, 8, size, padding=size // 2, groups=8), nn.ReLU())
    return module.eval()


def no_large_depthwise(kernel: Kernel) -> float:
    """A runtime whose depthwise kernels end at 25 taps: beyond, each tap costs a hundred times as much."""
    if len(kernel.calls) > 1:
        return sum(map(no_large_depthwise, kernel.calls))
    counts = kernel_counts(kernel)
    weight = [t.shape for t in kernel.tensors() if t.constant]
    large = "conv" in kernel.op and weight and weight[0][-1] * weight[0][-2] > 25
    return 1.0 + counts.macs * (100 if large else 1) + counts.bytes


def by_launch(kernel: Kernel) -> float:
    """A runtime where only the number of operations counts."""
    return 1e6 * len(kernel.calls) + kernel_counts(kernel).macs * 1e-3


@pytest.mark.parametrize("size", [7, 13])
def test_a_large_depthwise_kernel_is_split_where_the_runtime_has_none(size: int) -> None:
    graph, module, inputs = in_float64(depthwise(size), torch.randn(1, 8, 17, 19))
    kernels = open_kernels(graph)
    split, attempts = merge(graph, table(kernels, no_large_depthwise))
    whole, _ = merge(graph, table(kernels, by_launch))
    assert whole.histogram()["aten.conv2d.default"] == 1
    assert split.histogram()["aten.conv2d.default"] > 3
    assert (
        max(c.tensor.shape[-1] * c.tensor.shape[-2] for c in split.constants.values() if c.tensor.dim() == 4)
        <= 25
    )
    assert error(split, module, inputs) < 1e-9
    merged = [a for a in attempts if a.outcome is Outcome.MERGED]
    assert any("latency table of bench" in a.reason for a in merged)
    decided = [a for a in merged if a.options]
    assert decided
    for attempt in decided:  # the figures that decided: whole, or split; the least was taken
        assert len(attempt.options) > 1
        assert min(o.median for o in attempt.options) == pytest.approx(attempt.after.cost)
        assert all(o.low <= o.median <= o.high for o in attempt.options)
    by_prior = [a for a in merge(graph)[1] if a.outcome is Outcome.MERGED]
    assert not any(a.options for a in by_prior)  # a prior's price is no latency


def low_rank() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24), nn.Linear(24, 64), nn.ReLU()).eval()


class BlockPair(nn.Module):
    """Two block-diagonal products with a shuffle between (BlockShuffle)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, 16, 16))
        self.second = nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        y = torch.bmm(x.reshape(rows, 4, 16).transpose(0, 1), self.first)
        y = y.permute(1, 2, 0).reshape(rows, 4, 16).transpose(0, 1)
        return torch.relu(torch.bmm(y, self.second).transpose(0, 1).reshape(rows, 64))


@pytest.mark.parametrize("build", [low_rank, BlockPair])
def test_one_graph_under_two_tables_gives_two_equal_graphs(build) -> None:
    graph, module, inputs = in_float64(build(), torch.randn(5, 64))
    kernels = open_kernels(graph)
    arithmetic, _ = merge(graph, table(kernels, lambda k: 1.0 + kernel_counts(k).macs))
    launches, _ = merge(graph, table(kernels, by_launch))
    products = ("aten.linear.default", "aten.bmm.default", "aten.matmul.default")
    count = [sum(g.histogram().get(p, 0) for p in products) for g in (arithmetic, launches)]
    assert count == [2, 1]
    assert all(error(g, module, inputs) < 1e-9 for g in (arithmetic, launches))


def test_a_table_without_the_kernels_leaves_the_choice_to_the_prior_and_says_so() -> None:
    graph, _, _ = in_float64(low_rank(), torch.randn(5, 64))
    _, attempts = merge(graph, table((), by_launch))
    assert attempts
    assert all("prior" in a.priced_by for a in attempts if a.outcome is not Outcome.BARRIER)


def test_what_is_always_cheaper_needs_no_kernel() -> None:
    branches = Sum(ConvNorm(8, 8, 3, padding=1), ConvNorm(8, 8, 1), nn.BatchNorm2d(8))
    graph, module, inputs = in_float64(randomize(branches), torch.randn(1, 8, 9, 9))
    assert open_kernels(graph) == ()
    merged, _ = merge(graph, table((), by_launch))
    assert list(merged.histogram()) == ["aten.conv2d.default"]
    assert error(merged, module, inputs) < 1e-9


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_dense_matrix_is_offered_in_its_shortest_layout_only(tokens: int) -> None:
    graph, _, _ = in_float64(low_rank(), torch.randn(1, tokens, 64))
    kernels = open_kernels(graph)
    assert {k.op for k in kernels} == {"aten.linear.default"}
    assert len(kernels) == 3  # the two factors and their product


class Expansion(nn.Module):
    """A pointwise layer behind a normalisation that takes the channels last, and back (ConvNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Conv2d(6, 24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return nn.functional.gelu(self.layer(y))


def test_a_layout_that_only_looks_cheaper_alone_is_not_taken() -> None:
    graph, module, inputs = in_float64(randomize(Expansion()), torch.randn(1, 6, 5, 7))
    kernels = open_kernels(graph)
    no_convolutions, _ = merge(graph, table(kernels, lambda k: 1e3 if "conv" in k.op else 1.0))
    assert "aten.linear.default" not in no_convolutions.histogram()
    assert error(no_convolutions, module, inputs) < 1e-9


def test_blocks_are_offered_dense_in_another_layout_too() -> None:
    pair = nn.Sequential(nn.Conv1d(64, 64, 1, groups=4), nn.Conv1d(64, 64, 1, groups=4), nn.ReLU())
    graph, _, _ = in_float64(pair.eval(), torch.randn(1, 64, 5))
    found = {k.op for k in open_kernels(graph)}
    assert {"aten.conv1d.default", "aten.linear.default"} <= found
