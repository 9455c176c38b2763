"""The loop with structural sites beside precision, against a landscape that no additive model holds."""

import itertools
import math

import pytest

from compiler.errors import InfeasibleBudgetError, UsageError
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from compiler.search.latency import Observation, fit_latency
from compiler.search.loop import search_loop
from compiler.search.solver import Problem, solve
from compiler.search.space import Space, initial_choices
from tests.search.landscape import Landscape, estimate

BUDGET = parse_budget("0.6x")


def singles_of(world: Landscape) -> list[Observation]:
    return [Observation(c, world.ratio(c), 1e-4) for c in initial_choices(world.space) if any(c)]


def test_two_savings_at_the_same_operations_are_not_added() -> None:
    world = Landscape(1)
    model = fit_latency(world.space, singles_of(world))
    added = fit_latency(Space(world.space.sites, world.space.links), singles_of(world))
    errors = {"added": 0.0, "overlapping": 0.0}
    for choice in world.everything():
        truth = world.ratio(choice)
        errors["overlapping"] = max(errors["overlapping"], abs(model.predict(choice) - truth))
        errors["added"] = max(errors["added"], abs(added.predict(choice) - truth))
    assert errors["overlapping"] < 0.02
    assert errors["added"] > 0.1


def test_the_overlap_is_fitted_from_mixed_choices() -> None:
    # Sites that save at quite different operations of one segment: what one saves the other still saves.
    world = Landscape(2)
    apart = [
        Observation(c, 1 + sum(world.ratio(world.space.single(*g)) - 1 for g in world.space.taken(c)), 1e-4)
        for c in world.everything()[::7]
        if any(c)
    ]
    both = [*singles_of(world), *apart]
    assert fit_latency(world.space, singles_of(world)).gamma == pytest.approx(1.0, abs=0.1)
    assert fit_latency(world.space, both).gamma < 0.2


def test_a_joint_choice_is_never_predicted_slower_than_the_better_of_the_two() -> None:
    world = Landscape(3)
    space = Space(
        world.space.sites, (), tuple(type(o)(o.u, o.v, 50 * o.weight) for o in world.space.overlaps)
    )
    model = fit_latency(space, singles_of(world))
    for overlap in space.overlaps:
        joint = space.joint([(overlap.u, 2), (overlap.v, 1)])
        alone = min(model.predict(space.single(overlap.u, 2)), model.predict(space.single(overlap.v, 1)))
        assert model.predict(joint) <= alone + 1e-9


def test_overlaps_reach_the_programme_as_positive_boundaries() -> None:
    world = Landscape(1)
    model = fit_latency(world.space, singles_of(world))
    problem = Problem(tuple((0.0,) * len(t) for t in model.times), model.times, model.boundaries())
    for choice in world.everything():
        assert 1 + problem.time(choice) == pytest.approx(model.predict(choice), abs=1e-9)


def test_an_option_without_a_time_or_a_cost_is_never_taken() -> None:
    costs, times = ((1.0, 0.0), (1.0, 0.0)), ((0.0, math.inf), (0.0, -0.5))
    solution = solve(Problem(costs, times))
    assert solution is not None
    assert solution.choice == (0, 1)
    assert solve(Problem(((1.0, math.inf),), ((0.0, -1.0),), limit=-0.5)) is None


def test_a_cut_rules_out_a_part_whatever_else_is_chosen() -> None:
    costs = ((1.0, 0.0),) * 3
    solution = solve(Problem(costs, ((0.0, 0.0),) * 3, cuts=frozenset({frozenset({(0, 1), (1, 1)})})))
    assert solution is not None
    assert sum(solution.choice) == 2
    assert solution.choice[2] == 1


@pytest.mark.parametrize("seed", range(6))
def test_the_winner_is_near_the_optimum_of_all_methods(seed: int) -> None:
    world = Landscape(seed)
    outcome = search_loop(world.space, BUDGET, world.lab())
    assert outcome.winner.reading.within(BUDGET)
    assert world.cost_of(outcome.winner.choice) <= 1.15 * world.optimum(0.6)
    only_precision = [c for c in world.everything() if not any(c[: world.structural])]
    within = [world.cost_of(c) for c in only_precision if world.ratio(c) <= 0.6]
    assert world.cost_of(outcome.winner.choice) <= min(within, default=math.inf) + 1e-12


@pytest.mark.parametrize("most", [8, 12, 16])
def test_no_more_is_measured_than_the_limit(most: int) -> None:
    world = Landscape(4, segments=4, structural=4)
    outcome = search_loop(world.space, BUDGET, world.lab(), MeasurementBudget(most))
    assert len(world.measured()) <= most
    assert outcome.winner.reading.within(BUDGET)


def test_device_seconds_end_a_search_too() -> None:
    world = Landscape(4, segments=4, structural=4)  # a second for each choice
    search_loop(world.space, BUDGET, world.lab(), MeasurementBudget(device_seconds=17.5))
    assert len(world.measured()) <= 18


def test_an_option_that_cannot_change_the_plan_is_not_measured() -> None:
    world = Landscape(0, useless=frozenset({1}))
    search_loop(world.space, BUDGET, world.lab())
    assert not any(c[1] for c in world.measured())


def test_with_few_measurements_those_that_could_change_the_plan_come_first() -> None:
    few, many = Landscape(5, segments=4, structural=4), Landscape(5, segments=4, structural=4)
    outcome = search_loop(few.space, BUDGET, few.lab(), MeasurementBudget(15))
    whole = search_loop(many.space, BUDGET, many.lab())
    assert len(few.measured()) < len(many.measured())
    assert few.cost_of(outcome.winner.choice) <= 1.2 * many.cost_of(whole.winner.choice)
    assert outcome.unmeasured


def test_with_few_measurements_few_costs_are_read() -> None:
    world = Landscape(6, segments=10, structural=10)
    outcome = search_loop(world.space, BUDGET, world.lab(), MeasurementBudget(16))
    read = {c for c in world.costs_read if world.space.structural(c) == world.space.taken(c)}
    assert outcome.winner.reading.within(BUDGET)
    assert 0 < len(read) <= 14  # of twenty: each takes building a graph and fitting it


def test_what_cannot_be_built_together_is_cut_and_told() -> None:
    world = Landscape(0, clash=frozenset({(0, 1), (1, 2), (0, 2)}))
    outcome = search_loop(world.space, parse_budget("0.55x"), world.lab())
    assert all(world.refuses(t.choice) is None for t in outcome.trials)
    assert world.cost_of(outcome.winner.choice) <= 1.2 * world.optimum(0.55)


def test_a_repair_is_taken_where_both_halves_agree() -> None:
    better = 0
    for seed in range(5):
        world, same = (Landscape(seed, curved=0.04) for _ in range(2))
        repaired = search_loop(world.space, BUDGET, world.lab()).winner
        plain = search_loop(same.space, BUDGET, same.lab(second=None)).winner
        assert repaired.reading.within(BUDGET)
        assert world.cost_of(repaired.choice) <= world.cost_of(plain.choice)
        assert world.cost_of(repaired.choice, True) <= world.cost_of(plain.choice, True)
        better += world.cost_of(repaired.choice) < 0.995 * world.cost_of(plain.choice)
    assert better >= 2


def test_a_repair_that_the_second_half_does_not_confirm_is_not_taken() -> None:
    for seed in range(2):
        world, same = (Landscape(seed, curved=0.04) for _ in range(2))
        steps = itertools.count(1)  # costs that only rise: no swap looks better than what it departs from
        lab = world.lab(second=lambda _, steps=steps: estimate(float(next(steps))))
        worse = search_loop(world.space, BUDGET, lab).winner
        plain = search_loop(same.space, BUDGET, same.lab(second=None)).winner
        assert worse.choice == plain.choice


def test_a_gate_that_shuts_out_the_cheapest_lets_the_next_one_win() -> None:
    world, same = Landscape(1), Landscape(1)
    first = search_loop(world.space, BUDGET, world.lab()).winner
    gate = lambda c: "accuracy falls" if c == first.choice else None  # noqa: E731
    second = search_loop(same.space, BUDGET, same.lab(gate=gate)).winner
    assert second.choice != first.choice
    assert second.reading.within(BUDGET)
    with pytest.raises(InfeasibleBudgetError, match="none may win: accuracy falls"):
        search_loop(world.space, BUDGET, Landscape(1).lab(gate=lambda _: "accuracy falls"))


def test_bytes_bound_the_winner_and_a_base_in_time_is_not_enough() -> None:
    world = Landscape(1)
    size = lambda c: 1000 - 100 * sum(c[world.structural :])  # noqa: E731
    outcome = search_loop(world.space, parse_budget("1x"), world.lab(size=size), most_bytes=700)
    assert outcome.winner.bytes is not None
    assert outcome.winner.bytes <= 700
    with pytest.raises(InfeasibleBudgetError, match="100 bytes or less; the smallest measured has 500"):
        search_loop(world.space, parse_budget("1x"), world.lab(size=size), most_bytes=100)


def test_what_was_measured_for_one_budget_is_not_measured_for_the_next() -> None:
    world = Landscape(2)
    first = search_loop(world.space, parse_budget("0.8x"), world.lab())
    search_loop(world.space, parse_budget("0.6x"), world.lab(), known=first.trials)
    assert len(world.measured()) == len(set(world.measured()))
    alone = Landscape(2)
    assert (
        search_loop(alone.space, parse_budget("0.6x"), alone.lab()).winner.reading.within(BUDGET)
        and len(world.measured()) < len(alone.measured()) + len(first.trials) - 5
    )


@pytest.mark.parametrize("limits", [{"measurements": 0}, {"device_seconds": 0.0}])
def test_a_search_that_may_not_measure_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a search needs"):
        MeasurementBudget(**limits)
