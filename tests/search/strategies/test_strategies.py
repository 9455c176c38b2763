"""Every strategy on a known landscape: costs and times add up, and pairs of sites interact."""

import itertools
from functools import cache

import numpy as np
import pytest

from compiler.errors import UsageError
from compiler.search.budget import parse_budget
from compiler.search.experiments import Experiments, MeasurementBudget
from compiler.search.front import front, hypervolume
from compiler.search.loop import search_loop
from compiler.search.output_cost import CostEstimate
from compiler.search.space import PRECISION, Choice, Site, Space, initial_choices
from compiler.search.strategy import Setting, draw, excess, list_strategies, open_strategy, winner
from compiler.search.trial import Reading, Trial

SITES, OPTIONS = 8, 4
SPACE = Space(tuple(Site(f"site:{i}", PRECISION, tuple("abcd")[:OPTIONS]) for i in range(SITES)))
BUDGET = parse_budget("0.6x")
SETTING = Setting(SPACE, BUDGET)
DRAWN = np.random.default_rng(7)
GAIN = np.concatenate([np.zeros((SITES, 1)), np.sort(DRAWN.uniform(0.01, 0.12, (SITES, OPTIONS - 1)))], 1)
DAMAGE = np.concatenate([np.zeros((SITES, 1)), np.sort(DRAWN.exponential(0.3, (SITES, OPTIONS - 1)))], 1)
BLACK_BOX = [name for name in list_strategies() if name != "integer"]


def measured(choice: Choice) -> Trial:
    sites = np.arange(SITES)
    neighbours = sum(a != b for a, b in itertools.pairwise(choice))
    ratio = 1 - float(GAIN[sites, choice].sum()) + 0.01 * neighbours
    loss = float(DAMAGE[sites, choice].sum()) * (1 + 0.05 * neighbours)
    reading = Reading(ratio, ratio - 0.005, ratio + 0.005, ratio * 1e7, ratio * 0.995e7, ratio * 1.005e7, 1e7)
    return Trial(choice, reading, None if not any(choice) else CostEstimate(loss, 0.0, loss, loss, 8))


def run(name: str, seed: int, count: int, first: tuple[Choice, ...] = ()) -> list[Trial]:
    strategy = open_strategy(name, Setting(SPACE, BUDGET, seed))
    trials = [measured(c) for c in first]
    while len(trials) < count and (choice := strategy.propose(trials)) is not None:
        trials.append(measured(choice))
    return trials


@cache
def median_cost(name: str, count: int = 120) -> float:
    """Cost of the winner, the median of three seeds."""
    return float(np.median([winner(run(name, seed, count), SETTING).price[0] for seed in range(3)]))


def test_the_folder_is_the_registry() -> None:
    assert list_strategies() == tuple(sorted(list_strategies()))
    assert {"integer", "nsga2", "tpe", "random", "evolution"} <= set(list_strategies())
    with pytest.raises(UsageError, match=r"no search strategy 'best'; known: .*evolution"):
        open_strategy("best", Setting(SPACE, BUDGET))


@pytest.mark.parametrize("name", BLACK_BOX)
def test_a_seed_fixes_what_is_proposed(name: str) -> None:
    first = [t.choice for t in run(name, 3, 60)]
    assert first == [t.choice for t in run(name, 3, 60)]
    assert first != [t.choice for t in run(name, 4, 60)]


@pytest.mark.parametrize("name", list_strategies())
def test_a_search_that_was_interrupted_proposes_what_it_would_have(name: str) -> None:
    trials = run(name, 1, 75, first=initial_choices(SPACE))
    for stop in (30, 51, 60, 74):
        again = open_strategy(name, Setting(SPACE, BUDGET, 1))
        if stop < len(trials):
            assert again.propose(trials[:stop]) == trials[stop].choice


@pytest.mark.parametrize("name", list_strategies())
def test_no_choice_is_measured_twice(name: str) -> None:
    trials = run(name, 0, 70, first=initial_choices(SPACE))
    assert len({t.choice for t in trials}) == len(trials)
    assert all(0 <= o < OPTIONS for t in trials for o in t.choice)


@pytest.mark.parametrize("name", sorted(set(BLACK_BOX) - {"random"}))
def test_it_beats_random_at_equal_evaluations(name: str) -> None:
    count = 250 if name == "nsga2" else 100  # its population is 50: at 100 it has bred once
    assert median_cost(name, count) < median_cost("random", count)


def test_the_integer_programme_needs_a_third_of_the_evaluations() -> None:
    trials = run("integer", 0, 120, first=initial_choices(SPACE))
    assert len(trials) < 40
    assert winner(trials, SETTING).price[0] <= 1.01 * min(
        median_cost(name) for name in ("evolution", "random")
    )


@pytest.mark.parametrize("name", list_strategies())
def test_no_winner_is_infeasible(name: str) -> None:
    trials = run(name, 2, 60, first=initial_choices(SPACE))
    best = winner(trials, SETTING)
    assert any(excess(t, SETTING) > 0 for t in trials)
    assert best is not None
    assert excess(best, SETTING) <= 0
    assert all(best.price[0] <= t.price[0] for t in trials if t.reading.ratio_high <= 0.6)
    assert winner(trials, Setting(SPACE, parse_budget("0.01x"))) is None


@pytest.mark.parametrize("name", list_strategies())
def test_the_hypervolume_never_falls(name: str) -> None:
    trials = run(name, 5, 60, first=initial_choices(SPACE))
    areas = [hypervolume(trials[:n], 1.0, 2.0) for n in range(1, len(trials) + 1)]
    assert areas == sorted(areas)
    assert areas[-1] >= areas[len(initial_choices(SPACE)) - 1] > 0


def test_the_front_is_what_no_other_beats() -> None:
    trials = run("random", 0, 200)
    kept = front(trials)
    for t in trials:
        beaten = [
            o
            for o in trials
            if o.reading.ratio <= t.reading.ratio and o.price[0] <= t.price[0] and o is not t
        ]
        assert (not beaten) == (t in kept)
    corners = [(t.reading.ratio, t.price[0]) for t in kept if t.price[0] < 2 and t.reading.ratio < 1]
    x, y = np.meshgrid(np.linspace(0, 1, 1000, endpoint=False), np.linspace(0, 2, 1000, endpoint=False))
    area = 2 * float(np.any([(x >= a) & (y >= b) for a, b in corners], axis=0).mean())
    assert hypervolume(trials, 1.0, 2.0) == pytest.approx(area, abs=0.005)


@pytest.mark.parametrize("name", BLACK_BOX)
def test_a_small_space_is_exhausted_and_then_nothing_is_proposed(name: str) -> None:
    space = Space(
        (
            Site("s:0", PRECISION, ("a", "b")),
            Site("s:1", PRECISION, ("a", "b", "c")),
            Site("s:2", PRECISION, ("a",)),
        )
    )
    strategy = open_strategy(name, Setting(space, BUDGET))
    trials: list[Trial] = []
    while (choice := strategy.propose(trials)) is not None:
        trials.append(Trial(choice, measured((*choice, *[0] * 5)).reading))
    assert sorted(t.choice for t in trials) == [(a, b, 0) for a in range(2) for b in range(3)]


def test_a_draw_finds_the_one_choice_left() -> None:
    space = Space(tuple(Site(f"s:{i}", PRECISION, ("a", "b", "c")) for i in range(7)))
    left = (2, 0, 1, 1, 2, 0, 2)
    every = {tuple(map(int, c)) for c in np.ndindex(*(3,) * 7)}
    assert draw(space, np.random.default_rng(0), every - {left}) == left
    assert draw(space, np.random.default_rng(0), every) is None


@pytest.mark.parametrize("name", BLACK_BOX)
def test_what_is_refused_is_not_proposed_again(name: str) -> None:
    space = Space(tuple(Site(f"s:{i}", PRECISION, ("a", "b", "c")) for i in range(3)))
    strategy = open_strategy(name, Setting(space, BUDGET))
    trials = [
        Trial(c, measured((*c, 0, 0, 0, 0, 0)).reading) for c in itertools.islice(np.ndindex(3, 3, 3), 12)
    ]
    refused: list[Choice] = []
    while (choice := strategy.propose(trials, refused)) is not None:
        refused.append(choice)
    assert len(set(refused)) == len(refused) == 27 - 12
    assert not set(refused) & {t.choice for t in trials}


def test_a_search_goes_on_past_what_cannot_be_built() -> None:
    def refuses(choice: Choice) -> str | None:
        return "made up" if any(a == b != 0 for a, b in itertools.pairwise(choice)) else None

    strategy = open_strategy("evolution", Setting(SPACE, BUDGET))
    lab = Experiments(
        lambda choices: {c: measured(c).reading for c in choices},
        lambda c: measured(c).cost,
        refuses=refuses,
    )
    found = search_loop(
        SPACE, parse_budget("0.7x"), lab, MeasurementBudget(trials=5), propose=strategy.propose
    )
    first = [c for c in initial_choices(SPACE) if refuses(c) is None]
    assert len(found.trials) == len(first) + 5
    assert not any(refuses(t.choice) for t in found.trials)
