import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from compiler.search.solver import Boundary, Problem, Solution, fastest, solve


def random_problem(seed: int, groups: int, options: int, tightness: float, rules: bool = False) -> Problem:
    rng = np.random.default_rng(seed)
    costs = tuple((0.0, *map(float, rng.exponential(1, options - 1))) for _ in range(groups))
    times = tuple((0.0, *map(float, -rng.exponential(0.05, options - 1))) for _ in range(groups))
    pairs = [(g, g + 1) for g in range(groups - 1)] + [(0, groups - 1)]
    boundaries = tuple(
        Boundary(
            u, v, {(a, c): float(rng.exponential(0.03)) for a, c in itertools.permutations(range(options), 2)}
        )
        for u, v in pairs
    )
    sizes = tuple(tuple(map(float, rng.integers(1, 100, options))) for _ in range(groups))
    extra = {}
    if rules:
        extra = {
            "sizes": sizes,
            "most_bytes": 0.8 * sum(max(s) for s in sizes),
            "requires": (((0, 1), (1, 1)),),
            "excludes": (((2, 1), (3, 1)),),
        }
    least = min(Problem(costs, times, boundaries).time(c) for c in every(costs))
    forbidden = frozenset({tuple(map(int, rng.integers(0, options, groups))) for _ in range(5)})
    return Problem(costs, times, boundaries, limit=tightness * least, forbidden=forbidden, **extra)


def every(costs: tuple[tuple[float, ...], ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(c)) for c in costs))


def allowed(p: Problem, choice: tuple[int, ...]) -> bool:
    def on(literal: tuple[int, int]) -> bool:
        return choice[literal[0]] == literal[1]

    return (
        choice not in p.forbidden
        and all(on(b) or not on(a) for a, b in p.requires)
        and not any(on(a) and on(b) for a, b in p.excludes)
        and (not p.sizes or sum(s[o] for s, o in zip(p.sizes, choice, strict=True)) <= p.most_bytes)
    )


def brute_force(p: Problem) -> Solution | None:
    fits = [
        Solution(c, p.cost(c), p.time(c)) for c in every(p.costs) if allowed(p, c) and p.time(c) <= p.limit
    ]
    return min(fits, key=lambda s: (s.cost, s.time), default=None)


@pytest.mark.parametrize("tightness", [0.1, 0.5, 0.9, 0.999, 1.01])
@pytest.mark.parametrize(("groups", "options"), [(8, 2), (10, 2), (5, 3)])
def test_equals_brute_force(groups: int, options: int, tightness: float) -> None:
    for seed in range(8):
        problem = random_problem(seed, groups, options, tightness, rules=seed % 2 == 1)
        expected, found = brute_force(problem), solve(problem)
        if expected is None:
            assert found is None
            continue
        assert found is not None
        assert found.choice == expected.choice
        assert found.cost == pytest.approx(expected.cost)
        assert found.time <= problem.limit + 1e-9


def test_scattered_choices_pay_for_their_boundaries() -> None:
    # Option 1 saves 3 at each site and costs the same; alone it buys two conversions of 2.
    boundaries = tuple(Boundary(g, g + 1, {(0, 1): 2.0, (1, 0): 2.0}) for g in range(5))
    costs = tuple((0.0, 1.0) for _ in range(6))
    problem = Problem(costs, tuple((0.0, -3.0) for _ in range(6)), boundaries, limit=-4.0)
    found = solve(problem)
    assert found is not None
    assert found.cost == 2.0
    assert found.choice in ((1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1))  # a block at an edge: one conversion


def test_ties_in_cost_go_to_the_faster_choice() -> None:
    problem = Problem(
        ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)), ((0.0, -1.0), (0.0, -3.0), (0.0, -2.0)), limit=-0.5
    )
    assert solve(problem) == Solution((0, 1, 0), 1.0, -3.0)


def test_free_options_are_taken_where_they_are_faster() -> None:
    problem = Problem(((0.0, 0.0), (0.0, 0.0)), ((0.0, -1.0), (0.0, 1.0)))
    assert solve(problem) == Solution((1, 0), 0.0, -1.0)


def test_small_costs_are_not_lost_in_the_tolerance() -> None:
    problem = Problem(((0.0, 3e-9), (0.0, 1e-9)), ((0.0, -1e6), (0.0, -1e6)), limit=-5e5)
    found = solve(problem)
    assert found is not None
    assert found.choice == (0, 1)


def test_infeasible_is_none_and_fastest_says_what_is_reachable() -> None:
    problem = random_problem(3, 8, 2, 2.0)
    assert solve(problem) is None
    least = min(
        (problem.time(c) for c in every(problem.costs) if c not in problem.forbidden), default=math.nan
    )
    found = fastest(problem)
    assert found is not None
    assert found.time == pytest.approx(least)


def test_all_choices_cut_is_none() -> None:
    problem = Problem(((0.0, 1.0),), ((0.0, -1.0),), forbidden=frozenset({(0,), (1,)}))
    assert solve(problem) is None
    assert fastest(problem) is None


def test_a_negative_boundary_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        Boundary(0, 1, {(0, 1): -1.0})


def test_three_hundred_groups_are_solved_exactly_enough() -> None:
    rng = np.random.default_rng(0)
    costs = tuple(tuple(map(float, np.sort(rng.random(6)))) for _ in range(300))
    times = tuple(tuple(map(float, -np.sort(rng.random(6)))) for _ in range(300))
    problem = Problem(costs, times, limit=-170.0)
    found = solve(problem)
    assert found is not None
    assert found.time <= -170.0 + 1e-6
