"""Intervals that hold what they promise, and ratios paired by round."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.records import DeviceState, Round
from devices.statistics import ratio, summarise

STATE = DeviceState(0)


def rounds_of(*samples: list[int], marked: tuple[int, ...] = ()) -> list[Round]:
    return [Round(i, tuple(s), STATE, STATE, throttled=i in marked) for i, s in enumerate(samples)]


def coverage(rounds: int, each: int, between: float, within: float, runs: int = 200) -> float:
    draw = np.random.default_rng(7)
    held = 0
    for run in range(runs):
        mood = np.exp(draw.normal(0, between, (rounds, 1)))
        samples = 1e6 * mood * np.exp(draw.normal(0, within, (rounds, each)))
        statistics = summarise(samples.astype(int).tolist(), resamples=300, seed=run)
        held += statistics.low <= 1e6 <= statistics.high
    return held / runs


@pytest.mark.parametrize(("rounds", "between"), [(1, 0.0), (4, 0.0), (8, 0.02), (20, 0.02)])
def test_the_interval_holds_the_true_median_about_95_times_in_100(rounds: int, between: float) -> None:
    assert 0.90 <= coverage(rounds, 50, between, 0.02) <= 0.99


def test_correlated_rounds_give_a_wider_interval_than_the_same_samples_shuffled() -> None:
    draw = np.random.default_rng(3)
    correlated = (1e6 * np.exp(draw.normal(0, 0.02, (10, 1)) + draw.normal(0, 0.005, (10, 200)))).astype(int)
    shuffled = draw.permutation(correlated.reshape(-1)).reshape(10, 200)
    assert summarise(correlated).relative_width > 3 * summarise(shuffled).relative_width


def test_order_statistics_are_those_of_all_samples() -> None:
    statistics = summarise([list(range(500)), list(range(500, 1001))])
    assert (statistics.count, statistics.minimum, statistics.median) == (1001, 0, 500)
    assert (statistics.p90, statistics.p99) == (900, 990)
    assert statistics.low < 500 < statistics.high


def test_equal_samples_have_no_width_and_the_same_input_gives_the_same_interval() -> None:
    assert summarise([[5, 5, 5]] * 8).relative_width == 0
    assert summarise([[5]]).relative_width == 0
    draw = np.random.default_rng(0).integers(1000, 2000, (8, 30)).tolist()
    assert summarise(draw) == summarise(draw)


def test_rounds_of_many_samples_are_thinned_without_moving_the_interval() -> None:
    draw = np.random.default_rng(5)
    long = (1e6 * np.exp(draw.normal(0, 0.02, (6, 1)) + draw.normal(0, 0.01, (6, 4096)))).astype(int)
    statistics, by_round = summarise(long), np.median(long, axis=1)
    assert by_round.min() <= statistics.low < statistics.median < statistics.high <= by_round.max()


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        summarise([[], []])


def test_a_ratio_cancels_what_paired_rounds_share() -> None:
    draw = np.random.default_rng(2)
    mood = np.exp(draw.normal(0, 0.3, 12))
    a = rounds_of(*[[int(2e6 * m * f) for f in (0.999, 1.0, 1.001)] for m in mood])
    b = rounds_of(*[[int(1e6 * m * f) for f in (0.999, 1.0, 1.001)] for m in mood])
    result = ratio(a, b)
    assert result.rounds == 12
    assert result.value == pytest.approx(2, rel=1e-4)
    assert result.low == pytest.approx(2, rel=1e-4)
    assert result.high == pytest.approx(2, rel=1e-4)


def test_marked_and_unpaired_rounds_take_no_part() -> None:
    a = rounds_of([20], [20], [90], [20], marked=(2,))
    b = rounds_of([10], [10], [10])
    assert ratio(a, b) == ratio(a[:2], b[:2])
    with pytest.raises(ValueError, match="no two clean rounds"):
        ratio(a[3:], b)


def test_the_tails_have_intervals_that_hold_them() -> None:
    draw = np.random.default_rng(11)
    held = {"p90": 0, "p99": 0}
    truth = {"p90": np.exp(0.05 * 1.28155), "p99": np.exp(0.05 * 2.32635)}  # of a standard normal
    for run in range(60):
        samples = 1e6 * np.exp(draw.normal(0, 0.05, (12, 100)))
        found = summarise(samples.astype(int).tolist(), resamples=300, seed=run)
        for name in held:
            low, high = getattr(found, f"{name}_low"), getattr(found, f"{name}_high")
            held[name] += low <= 1e6 * truth[name] <= high
    assert all(count / 60 >= 0.85 for count in held.values())


@pytest.mark.parametrize(("count", "known"), [(30, ()), (36, ("p90",)), (368, ("p90", "p99"))])
@pytest.mark.parametrize("rounds", [1, 6])
def test_a_tail_of_too_few_samples_has_no_interval(count: int, known, rounds: int) -> None:
    samples = np.array_split(np.random.default_rng(0).integers(1000, 2000, count), rounds)
    found = summarise(samples)
    for name in ("p90", "p99"):
        bounds = [getattr(found, f"{name}_{end}") for end in ("low", "high")]
        assert (None not in bounds) == (name in known)
        if name in known:
            assert bounds[0] <= getattr(found, name) <= bounds[1]


def test_without_tails_the_median_is_the_same() -> None:
    draw = np.random.default_rng(0).integers(1000, 2000, (8, 60)).tolist()
    whole, median = summarise(draw), summarise(draw, tails=False)
    assert (whole.median, whole.low, whole.high) == (median.median, median.low, median.high)
    assert (median.p90, median.p90_low) == (whole.p90, None)
