"""The loop against a device whose true latency and cost are known, so that the optimum is too."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from compiler.errors import InfeasibleBudgetError
from compiler.search.budget import parse_budget
from compiler.search.experiments import Experiments, MeasurementBudget
from compiler.search.loop import Reading, search_loop
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice, Link, Site, Space

N = 8
SPACE = Space(
    tuple(Site(f"segment:b{i}", "precision", ("float32", "int8")) for i in range(N)),
    (*(Link(i, i + 1, 4000 * (N - i)) for i in range(N - 1)), Link(2, 5, 9000)),
)
BASE_NS = 10e6


@dataclass
class FakeDevice:
    """Gains and boundary costs drawn from a seed, an interaction no additive model holds, and noise."""

    seed: int = 0
    noise: float = 0.0
    interaction: float = 0.0
    drift: float = 0.0
    odd: dict[Choice, float] = field(default_factory=dict)  # choices that take longer than their parts say
    runs: list[tuple[Choice, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.gain = -rng.uniform(0.03, 0.10, N)
        self.damage = rng.exponential(0.05, N)
        self.rng = rng

    def ratio(self, choice: Choice) -> float:
        crossed = sum(1.5e-6 * link.bytes for link in SPACE.crossed(choice))
        extra = self.interaction * (sum(choice) not in (0, 1, N))
        return 1 + float(self.gain @ np.array(choice)) + crossed + extra + self.odd.get(choice, 0.0)

    def cost_of(self, choice: Choice) -> float:
        return float(self.damage @ np.array(choice))

    def measure(self, choices: Sequence[Choice]) -> Mapping[Choice, Reading]:
        base = BASE_NS * (1 + self.drift * len(self.runs))
        self.runs.append(tuple(choices))
        return {c: self.reading(c, base) for c in choices}

    def reading(self, choice: Choice, base: float) -> Reading:
        center = self.ratio(choice) + self.noise * float(self.rng.normal())
        half = 1.96 * self.noise + 1e-6
        if choice == SPACE.base:
            center, half = 1.0, 0.0  # paired with itself
        low, high = center - half, center + half
        return Reading(center, low, high, center * base, low * base, high * base, base)

    def cost(self, choice: Choice) -> CostEstimate:
        value = self.cost_of(choice)
        return CostEstimate(value, value / 10, value * 0.8, value * 1.2, 100)

    @property
    def lab(self) -> Experiments:
        return Experiments(self.measure, self.cost)

    def optimum(self, limit: float) -> float:
        return min(self.cost_of(c) for c in itertools.product((0, 1), repeat=N) if self.ratio(c) <= limit)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("ratio", [0.9, 0.8, 0.7, 0.65])
def test_finds_the_known_optimum_when_the_model_is_right(seed: int, ratio: float) -> None:
    device = FakeDevice(seed)
    budget = parse_budget(f"{ratio}x")
    if min(device.ratio(c) for c in itertools.product((0, 1), repeat=N)) > ratio:
        with pytest.raises(InfeasibleBudgetError):
            search_loop(SPACE, budget, device.lab)
        return
    outcome = search_loop(SPACE, budget, device.lab, MeasurementBudget(trials=10))
    assert outcome.winner.reading.ratio_high <= ratio
    assert device.cost_of(outcome.winner.choice) == pytest.approx(device.optimum(ratio), rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_with_noise_the_winner_was_measured_within_the_budget(seed: int) -> None:
    device = FakeDevice(seed, noise=0.004)
    outcome = search_loop(SPACE, parse_budget("0.75x"), device.lab)
    assert outcome.winner.reading.ratio_high <= 0.75
    assert device.cost_of(outcome.winner.choice) <= 2 * device.optimum(0.75 - 0.03)


def test_an_overshoot_tightens_the_budget_and_the_choice_is_not_tried_again() -> None:
    # Every mixed choice is 10% slower than its parts say: the first proposal overshoots.
    device = FakeDevice(1, interaction=0.10)
    outcome = search_loop(SPACE, parse_budget("0.75x"), device.lab)
    joint = [t for t in outcome.trials if t.predicted is not None]
    assert not joint[0].reading.within(parse_budget("0.75x"))
    assert outcome.winner.reading.ratio_high <= 0.75
    measured = [t.choice for t in outcome.trials]
    assert len(measured) == len(set(measured))


@pytest.mark.parametrize("extra", [0.06, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_one_odd_choice_is_cut_off_and_the_next_best_found(seed: int, extra: float) -> None:
    budget = parse_budget("0.75x")
    proposed = search_loop(SPACE, budget, FakeDevice(seed).lab).winner
    assert proposed.predicted is not None
    device = FakeDevice(seed, odd={proposed.choice: extra})
    outcome = search_loop(SPACE, budget, device.lab)
    assert [t.choice for t in outcome.trials].count(proposed.choice) == 1
    everything_int8 = device.cost_of((1,) * N)
    assert outcome.winner.reading.within(budget)
    assert device.cost_of(outcome.winner.choice) < 0.9 * everything_int8


def test_the_first_proposal_keeps_a_margin_of_five_percent() -> None:
    for seed in range(10):
        device = FakeDevice(seed)
        trials = search_loop(SPACE, parse_budget("0.75x"), device.lab).trials
        predicted = [t.predicted for t in trials if t.predicted is not None]
        assert predicted
        assert predicted[0] <= 0.95 * 0.75 + 1e-9


def test_measured_plans_teach_the_model() -> None:
    device = FakeDevice(1, interaction=0.10)
    outcome = search_loop(SPACE, parse_budget("0.75x"), device.lab)
    joint = [t for t in outcome.trials if t.predicted is not None]
    first, last = (abs(t.reading.ratio - t.predicted) for t in (joint[0], joint[-1]))
    assert last < first


def test_a_budget_the_base_meets_costs_nothing_and_estimates_nothing() -> None:
    device = FakeDevice()

    def never(choice: Choice) -> CostEstimate:
        raise AssertionError("no cost is needed")

    outcome = search_loop(SPACE, parse_budget("11ms"), Experiments(device.measure, never))
    assert outcome.winner.choice == SPACE.base
    assert len(device.runs) == 1


def test_a_budget_of_the_base_itself_measures_nothing_else() -> None:
    device = FakeDevice()
    search_loop(SPACE, parse_budget("1x"), device.lab)
    assert device.runs == [(SPACE.base,)]


def test_nothing_dearer_is_tried_once_a_choice_is_known_to_fit() -> None:
    for seed in range(10):
        device = FakeDevice(seed, noise=0.01)
        trials = search_loop(SPACE, parse_budget("0.75x"), device.lab).trials
        known = np.inf
        for trial in trials:
            if trial.predicted is not None:
                assert device.cost_of(trial.choice) < known
            if trial.reading.ratio_high <= 0.75:
                known = min(known, device.cost_of(trial.choice))


def test_an_infeasible_budget_names_the_least_latency_and_its_plan() -> None:
    device = FakeDevice(2)
    least = min(itertools.product((0, 1), repeat=N), key=device.ratio)
    with pytest.raises(InfeasibleBudgetError) as raised:
        search_loop(SPACE, parse_budget("0.1x"), device.lab)
    assert raised.value.exit_code == 6
    message = str(raised.value)
    assert f"{device.ratio(least):.3f}x" in message
    assert f"{device.ratio(least) * 10:.3f} ms" in message
    assert all(f"segment:b{i} int8" in message for i, o in enumerate(least) if o)


def test_the_number_of_trials_is_bounded() -> None:
    device = FakeDevice(1, interaction=0.5)  # only all int8 and single departures run as fast as they should
    with pytest.raises(InfeasibleBudgetError):
        search_loop(
            SPACE,
            parse_budget(f"{device.ratio((1,) * N) - 0.01:.6f}x"),
            device.lab,
            MeasurementBudget(trials=4),
        )
    assert len(device.runs) <= 5


def test_a_ratio_is_judged_by_pairs_and_a_time_by_the_clock() -> None:
    # The machine slows by 2% a run: a ratio does not care, an absolute budget does.
    steady = search_loop(SPACE, parse_budget("0.7x"), FakeDevice(0).lab)
    drifting = FakeDevice(0, drift=0.02)
    assert search_loop(SPACE, parse_budget("0.7x"), drifting.lab).winner.choice == steady.winner.choice
    drifting = FakeDevice(0, drift=0.02)
    outcome = search_loop(SPACE, parse_budget("7ms"), drifting.lab)
    assert outcome.winner.reading.high_ns <= 7e6


def test_a_uniform_choice_over_the_sites_is_measured_in_the_first_run() -> None:
    device = FakeDevice()
    search_loop(SPACE, parse_budget("0.8x"), device.lab)
    assert set(device.runs[0]) == {SPACE.base, (1,) * N, *SPACE.singles()}


def test_counts_are_never_shown_as_time() -> None:
    time, count = (Reading(0.5, 0.5, 0.5, 2e6, 1.9e6, 2.1e6, 4e6, counted) for counted in (False, True))
    assert time.text == "2.000 ms (1.900 to 2.100)"
    assert count.text == "2M instructions (1.9000 to 2.1000)"
