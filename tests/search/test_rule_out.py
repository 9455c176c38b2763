"""A precision that is clearly slower where all is in it is left out before its single options are measured."""

import math

import pytest

from compiler.search.budget import parse_budget
from compiler.search.experiments import Experiments
from compiler.search.loop import Reading, search_loop
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Site, Space

N = 4
PRECISIONS = ("float32", "int8", "float16")
SPACE = Space(tuple(Site(f"segment:b{i}", "precision", PRECISIONS) for i in range(N)))
BASE_NS = 1e6


def searched(float16, **limits):
    """Run a search in which a segment saves 0.1 in int8 and takes `float16` in half; return what was measured."""
    change = (0.0, -0.1, float16)
    notes: list[str] = []

    def reading(choice):
        ratio = 1 + sum(change[o] for o in choice)
        return Reading(ratio, ratio, ratio, ratio * BASE_NS, ratio * BASE_NS, ratio * BASE_NS, BASE_NS)

    def cost(choice):
        value = sum((0.0, 0.02, 0.001)[o] for o in choice)
        return CostEstimate(value, 0.0, value, value, 100)

    lab = Experiments(lambda choices: {c: reading(c) for c in choices}, cost, size=lambda _: 10)
    outcome = search_loop(SPACE, parse_budget("0.75x"), lab, note=notes.append, **limits)
    return outcome, notes


def singles(outcome, option):
    index = PRECISIONS.index(option)
    return [t.choice for t in outcome.trials if SPACE.taken(t.choice) in [((i, index),) for i in range(N)]]


def test_a_precision_that_is_clearly_slower_is_measured_once():
    outcome, notes = searched(0.05)  # 1.2x where all is in half
    assert (2,) * N in [t.choice for t in outcome.trials] and singles(outcome, "float16") == []
    assert len(singles(outcome, "int8")) == N
    assert all(2 not in t.choice for t in outcome.trials if t.choice != (2,) * N)
    assert notes == ["left out: float16 takes 1.20x or more where all is in it that can be"]
    assert sorted(outcome.winner.choice) == [0, 1, 1, 1]


@pytest.mark.parametrize("float16", [0.02, -0.05])
def test_one_that_is_hardly_slower_or_faster_is_looked_at(float16):
    outcome, notes = searched(float16)
    assert len(singles(outcome, "float16")) == N and notes == []


def test_with_a_bound_on_bytes_none_is_left_out():
    outcome, _ = searched(0.05, most_bytes=20.0)
    assert len(singles(outcome, "float16")) == N and math.isfinite(outcome.winner.reading.ratio)
