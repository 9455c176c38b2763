"""What a few measurements say of the options that were not measured."""

import dataclasses

import pytest

from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget, Outlook
from compiler.search.few_shot import MOST, factor
from compiler.search.state import State
from tests.search.landscape import Landscape


def test_nothing_measured_or_expected_leaves_expectations_as_they_are() -> None:
    assert factor([]) == 1.0
    assert factor([(0.0, -0.3), (0.0, 0.1)]) == 1.0


def test_many_measurements_outweigh_the_prior_and_few_do_not() -> None:
    pairs = [(-0.1, -0.2), (-0.3, -0.6)]
    assert factor(pairs[:1]) == pytest.approx(1.5)
    assert factor(pairs * 50) == pytest.approx(2.0, abs=0.02)


def test_savings_that_turn_out_losses_leave_a_little_hope() -> None:
    assert factor([(-0.1, 0.4)] * 9) == 1 / MOST
    assert factor([(-0.01, -0.9)] * 9) == MOST


def test_measured_options_correct_those_of_their_method_alone() -> None:
    """Half is expected of all; of the cuts, what was measured says so."""
    world = Landscape(4)
    lab = world.lab()
    state = State(world.space, parse_budget("0.6x"), lab, MeasurementBudget(), lambda _: None)
    cuts = [g for g in world.space.literals() if world.space.sites[g[0]].method == "cut"]
    segment = next(g for g in world.space.literals() if world.space.sites[g[0]].method == "precision")
    before = {g: state.outlook(g) for g in (*cuts, segment)}
    state.measure([world.space.base, *(world.space.single(*g) for g in cuts[:-1])], priced=False)
    after = {g: state.outlook(g) for g in before}
    truth = world.ratio(world.space.single(*cuts[-1])) - 1
    assert before[cuts[-1]].departure == pytest.approx(truth / 2)
    assert after[cuts[-1]].departure == pytest.approx(truth * (1 - 0.5 / len(cuts)), rel=0.1)
    assert after[segment] == before[segment]
    assert after[cuts[-1]].most == before[cuts[-1]].most


def test_what_was_not_measured_is_guessed_by_the_corrected_expectation() -> None:
    world = Landscape(5)
    third = dataclasses.replace(world.lab(), outlook=lambda c: Outlook((world.ratio(c) - 1) / 3, 1.0))
    cuts = [g for g in world.space.literals() if world.space.sites[g[0]].method == "cut"]
    state = State(world.space, parse_budget("0.6x"), third, MeasurementBudget(), lambda _: None)
    both = world.space.joint([cuts[0], cuts[2]])  # the second is never measured alone
    state.measure(
        [world.space.base, *(world.space.single(*g) for g in cuts[:2] + cuts[3:]), both], priced=False
    )
    assert state.outlook(cuts[2]).departure == pytest.approx(
        world.ratio(world.space.single(*cuts[2])) - 1, rel=0.4
    )
