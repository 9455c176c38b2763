import math

import numpy as np
import pytest
import torch
from torch import nn

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.search.agreement import cost_advice, cost_gaps, range_advice, range_gaps, value_ranges
from compiler.search.output_cost import CostEstimate, estimate


def cost(mean: float, error: float) -> CostEstimate:
    return CostEstimate(mean, error, mean - 2 * error, mean + 2 * error, 50)


def test_ranges_are_the_extremes_over_all_samples() -> None:
    torch.manual_seed(0)
    graph = import_model(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), (torch.zeros(1, 4),))
    samples = [(torch.randn(1, 4),) for _ in range(20)]
    ranges = value_ranges(graph, samples)
    results = torch.cat([evaluate(graph, s)[0] for s in samples])
    assert set(ranges) == {n.name for n in graph.ops()}
    assert ranges["relu"] == pytest.approx((float(results.min()), float(results.max())))


def test_ranges_that_differ_by_more_than_a_fifth_are_flagged_worst_first() -> None:
    first = {"same": (0, 1), "near": (-1, 1), "wide": (0, 1), "moved": (0, 1), "dead": (0, 0), "only": (0, 1)}
    second = {"same": (0, 1), "near": (-1, 1.4), "wide": (0, 1.3), "moved": (0.5, 1.5), "dead": (0, 0)}
    gaps = range_gaps(first, second)
    assert [(g.node, round(g.share, 3)) for g in gaps] == [("moved", 0.5), ("wide", 0.231)]
    text = range_advice(gaps, 6)
    assert text is not None and "2 of 6 values" in text and "most at moved: 0 to 1 and 0.5 to 1.5" in text
    assert range_advice((), 6) is None


def test_few_heavy_tailed_samples_disagree_and_many_agree() -> None:
    graph = import_model(nn.Sequential(nn.Tanh()).eval(), (torch.zeros(1, 64),))
    generator = torch.Generator().manual_seed(0)

    def drawn(count):
        return value_ranges(
            graph, [(0.3 * torch.randn(1, 64, generator=generator) ** 3,) for _ in range(count)]
        )

    assert range_gaps(drawn(200), drawn(200)) == ()
    assert range_gaps(drawn(200), value_ranges(graph, [(torch.full((1, 64), 0.1),)]))


def test_costs_that_differ_by_more_than_three_standard_errors_are_flagged() -> None:
    first = {"a": cost(1.0, 0.1), "b": cost(1.0, 0.1), "c": cost(0.0, 0.0), "d": cost(0.0, 0.0)}
    second = {"a": cost(1.42, 0.1), "b": cost(1.43, 0.1), "c": cost(0.0, 0.0), "d": cost(1e-9, 0.0)}
    gaps = cost_gaps(first, second)
    assert [g.decision for g in gaps] == ["d", "b"]
    assert gaps[0].errors == math.inf and gaps[1].errors == pytest.approx(0.43 / math.hypot(0.1, 0.1))
    text = cost_advice(gaps)
    assert text is not None and "2 decisions" in text and cost_advice(()) is None


def test_halves_of_one_population_are_hardly_ever_flagged_and_of_two_always() -> None:
    generator, flagged = np.random.default_rng(0), 0
    for seed in range(60):
        halves = [estimate(generator.exponential(size=80), seed) for _ in range(3)]
        flagged += bool(cost_gaps({"x": halves[0]}, {"x": halves[1]}))
        shifted = estimate(2.5 * generator.exponential(size=80), seed)
        assert cost_gaps({"x": halves[2]}, {"x": shifted}, 2.0)
    assert flagged <= 3
