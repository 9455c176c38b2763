"""A verdict on two programs: right on made-up rounds, and none where there is nothing to rely on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.records import DeviceState, Measurement, Metric, Round, Statistics
from devices.comparison import Verdict, compare

STATE = DeviceState(0)


def measurement(medians, marked=(), metric=Metric.WALL) -> Measurement:
    rounds = tuple(Round(i, (int(m),) * 5, STATE, STATE, noisy=i in marked) for i, m in enumerate(medians))
    statistics = Statistics(1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # of no matter here
    return Measurement("a", "g", "p", "p", "d", "q", "local", {}, metric, 1, rounds, statistics, 0, 0, True)


def pair(factor: float, spread: float, rounds: int = 20, seed: int = 0, marked=()):
    draw = np.random.default_rng(seed)
    shared = 1e6 * np.exp(draw.normal(0, 0.2, rounds))
    own = np.exp(draw.normal(0, spread, (2, rounds)))
    return measurement(shared * own[0], marked), measurement(shared * factor * own[1])


@pytest.mark.parametrize(
    ("factor", "spread", "expected"),
    [
        (1.05, 0.005, Verdict.SLOWER),
        (1 / 1.05, 0.005, Verdict.FASTER),
        (1.0, 0.005, Verdict.SAME),
        (1.01, 0.003, Verdict.SAME),  # a percent that is certain is still no difference that matters
        (1.017, 0.01, Verdict.UNSTABLE),  # on the edge
        (1.05, 0.3, Verdict.UNSTABLE),
        (1.0, 0.3, Verdict.UNSTABLE),
    ],
)
def test_a_verdict_follows_the_interval_of_the_ratio(factor, spread, expected) -> None:
    found = compare(*pair(factor, spread))
    assert found.verdict is expected
    assert found.reason == "20 of 20 pairs of rounds are clean"


def test_few_verdicts_are_false_however_noisy_the_rounds_are() -> None:
    false = said = 0
    for seed in range(300):
        spread = (0.01, 0.03, 0.1)[seed % 3]
        factor, truth = ((1.05, Verdict.SLOWER), (1.0, Verdict.SAME))[seed % 2]
        verdict = compare(*pair(factor, spread, seed=seed)).verdict
        said += verdict is not Verdict.UNSTABLE
        false += verdict not in (truth, Verdict.UNSTABLE)
    assert false < 0.05 * 300
    assert said > 100


def test_marked_rounds_take_their_partner_out_and_few_pairs_say_nothing() -> None:
    clean = compare(*pair(1.05, 0.001, 9, marked=(0, 1, 2, 3)))
    assert (clean.verdict, clean.ratio.rounds) == (Verdict.SLOWER, 5)
    few = compare(*pair(1.05, 0.001, 9, marked=(0, 1, 2, 3, 4)))
    assert (few.verdict, few.reason) == (
        Verdict.UNSTABLE,
        "4 of 9 pairs of rounds are clean, 5 needed",
    )
    none = compare(*pair(1.05, 0.001, 9, marked=range(9)))
    assert (none.verdict, none.ratio) == (Verdict.UNSTABLE, None)


def test_two_metrics_do_not_compare() -> None:
    first, second = pair(1.0, 0.01)
    with pytest.raises(ValueError, match="wall and cpu do not compare"):
        compare(first, replace(second, metric=Metric.CPU))
