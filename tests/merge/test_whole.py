"""Whole programs have the last word on what kernels chose."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.cost.kernel import kernel_counts
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import WholeProgram
from compiler.ir.graph import Graph
from compiler.merge import Outcome, merge
from compiler.merge.open_choices import open_kernels
from compiler.merge.whole import whole_programs
from compiler.records import Metric
from tests.models.small import compile_graph, error

pytestmark = pytest.mark.core


class Pair(nn.Module):
    """Low-rank factors with an activation behind: two products, or one of more arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(64, 24), nn.Linear(24, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.up(self.down(x)))


@pytest.fixture
def pair() -> tuple[Graph, nn.Module, torch.Tensor]:
    module, x = Pair().double().eval(), torch.randn(5, 64, dtype=torch.float64)
    return compile_graph(module, x), module, x


def products(graph: Graph) -> int:
    return graph.histogram()["aten.linear.default"]


def by_kernels(graph: Graph, cost) -> LatencyTable:
    entries = {k.text: Entry(*[cost(k)] * 3) for k in open_kernels(graph)}
    return LatencyTable("bench", "fake", 1, Metric.WALL, entries)


def with_programs(graph: Graph, table: LatencyTable, cost) -> LatencyTable:
    programs = {p.text: cost(p.graph) for p in whole_programs(graph, table)}
    return LatencyTable("bench", "fake", 1, Metric.WALL, {**table.entries, **programs})


def arithmetic(kernel) -> float:
    return 1.0 + kernel_counts(kernel).macs


def test_the_faster_program_is_taken_where_kernels_say_otherwise(pair):
    graph, module, x = pair
    table = by_kernels(graph, arithmetic)
    assert products(merge(graph, table)[0]) == 2
    measured = with_programs(
        graph, table, lambda g: Entry(9.0 * products(g), 8.0 * products(g), 10.0 * products(g))
    )
    merged, attempts = merge(graph, measured)
    assert products(merged) == 1
    assert error(merged, module, (x,)) < 1e-9
    made = [a for a in attempts if a.outcome is Outcome.MERGED]
    assert made and all("taken as a whole program" in a.reason for a in made)
    assert all(a.reason.endswith(": 9 (8 to 10) against 18 (16 to 20) ns") for a in made)


def test_kept_sites_stay_where_the_whole_program_decides(pair):
    graph, _, _ = pair
    measured = with_programs(graph, by_kernels(graph, arithmetic), lambda g: Entry(*[9.0 * products(g)] * 3))
    sites = [a.site for a in merge(graph, measured)[1] if a.outcome is Outcome.MERGED]
    assert products(merge(graph, measured)[0]) == 1
    assert products(merge(graph, measured, keep=sites)[0]) == 2


def test_the_choice_stays_where_intervals_overlap(pair):
    graph, _, _ = pair
    table = by_kernels(graph, arithmetic)
    measured = with_programs(graph, table, lambda g: Entry(9.0 * products(g), 1.0, 100.0))
    assert products(merge(graph, measured)[0]) == 2


def test_programs_are_asked_for_once_and_only_where_there_is_a_choice(pair):
    graph, _, _ = pair
    assert whole_programs(graph) == ()
    table = by_kernels(graph, arithmetic)
    asked = whole_programs(graph, table)
    assert sorted(products(p.graph) for p in asked) == [1, 2]
    assert whole_programs(graph, with_programs(graph, table, lambda g: Entry(1.0, 1.0, 1.0))) == ()
    single = compile_graph(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(5, 8))
    assert whole_programs(single, table) == ()


def test_a_program_is_known_by_its_structure(pair):
    graph, _, x = pair
    torch.manual_seed(1)
    other = compile_graph(Pair().double().eval(), x)
    assert WholeProgram(graph) == WholeProgram(other)
    assert WholeProgram(graph) != WholeProgram(compile_graph(Pair().double().eval(), x[:3]))
