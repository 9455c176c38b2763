"""The integer programme against every choice there is, on instances that use every kind of constraint."""

import functools
import itertools

import numpy as np
import pytest

from compiler.search.solver import Boundary, Problem, fastest, solve

INSTANCES = 200
CHUNK = 25


class Table:
    """Every choice of a problem with its time and cost, by numpy: no code of the solver's is used."""

    def __init__(self, p: Problem) -> None:
        sizes = [len(c) for c in p.costs]
        self.choices = np.array(list(itertools.product(*(range(n) for n in sizes))))
        take = [self.choices[:, g] for g in range(len(sizes))]
        self.cost = sum(np.array(p.costs[g])[take[g]] for g in range(len(sizes)))
        self.time = sum(np.array(p.times[g])[take[g]] for g in range(len(sizes)))
        for b in p.boundaries:
            for (a, c), t in b.times.items():
                self.time = self.time + t * ((take[b.u] == a) & (take[b.v] == c))
        self.bytes = sum(np.array(p.sizes[g])[take[g]] for g in range(len(sizes)))
        self.legal = self.bytes <= p.most_bytes
        for (u, a), (v, c) in p.requires:
            self.legal &= (take[u] != a) | (take[v] == c)
        for (u, a), (v, c) in p.excludes:
            self.legal &= (take[u] != a) | (take[v] != c)
        for cut in p.forbidden:
            self.legal &= (self.choices != np.array(cut)).any(1)

    def best(self, limit: float) -> float | None:
        fits = self.cost[self.legal & (self.time <= limit)]
        return float(fits.min()) if len(fits) else None


@functools.cache
def instance(seed: int) -> Problem:
    """Four to six groups of two to four options, boundaries on random pairs, and a random limit.

    One limit in five is out of reach by the fastest legal choice, one in five is that choice itself.
    """
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(2, 5, rng.integers(4, 7))]
    literals = [(g, o) for g, n in enumerate(sizes) for o in range(n)]

    def rows(draw):
        return tuple((0.0, *(float(draw()) for _ in range(n - 1))) for n in sizes)

    def pairs(count):
        """Pairs of literals in two groups, never the base's: the base must not be cut by accident."""
        found = [(literals[i], literals[j]) for i, j in rng.integers(0, len(literals), (40, 2))]
        return tuple((a, b) for a, b in found if a[0] != b[0] and a[1] and b[1])[:count]

    links = list(itertools.combinations(range(len(sizes)), 2))
    boundaries = tuple(
        Boundary(
            u,
            v,
            {
                (a, c): float(rng.exponential(0.03))
                for a in range(sizes[u])
                for c in range(sizes[v])
                if a != c
            },
        )
        for u, v in (links[int(i)] for i in rng.choice(len(links), 4, replace=False))
    )
    weights = tuple(tuple(float(b) for b in rng.integers(1, 100, n)) for n in sizes)
    lightest, heaviest = (sum(map(of, weights)) for of in (min, max))
    common = {
        "costs": rows(lambda: rng.exponential(1)),
        "times": rows(lambda: rng.normal(-0.05, 0.05)),
        "boundaries": boundaries,
        "sizes": weights,
        "most_bytes": lightest + float(rng.uniform(0.4, 0.9)) * (heaviest - lightest),
        "requires": pairs(2),
        "excludes": pairs(2),
        "forbidden": frozenset(tuple(int(rng.integers(n)) for n in sizes) for _ in range(4)),
    }
    table = Table(Problem(**common))
    least, most = float(table.time[table.legal].min()), float(table.time[table.legal].max())
    share = (-0.1, 0.0, 0.05, 0.3, 0.7)[seed % 5]
    return Problem(**common, limit=least + share * (most - least) + 1e-7)


@pytest.mark.parametrize("first", range(0, INSTANCES, CHUNK))
def test_the_optimum_is_that_of_brute_force(first: int) -> None:
    for seed in range(first, first + CHUNK):
        problem = instance(seed)
        table = Table(problem)
        best, found = table.best(problem.limit), solve(problem)
        assert (found is None) == (best is None), f"instance {seed}: feasible by one of the two only"
        if found is None:
            continue
        row = int((table.choices == found.choice).all(1).argmax())
        assert table.legal[row], f"instance {seed}: a constraint is broken"
        assert found.cost == pytest.approx(best, abs=1e-9), f"instance {seed}"
        assert found.time == pytest.approx(table.time[row], abs=1e-12)
        assert found.time <= problem.limit + 1e-7


def test_of_equal_costs_the_fastest_is_taken() -> None:
    for seed in range(0, INSTANCES, 5):
        problem = instance(seed + 4)
        # Costs of 0, 1 and 2 only: many choices tie.
        problem = Problem(
            **{**vars(problem), "costs": tuple(tuple(float(round(c)) for c in g) for g in problem.costs)}
        )
        table, found = Table(problem), solve(problem)
        assert found is not None
        ties = table.legal & (table.time <= problem.limit) & (table.cost == table.best(problem.limit))
        assert found.time == pytest.approx(float(table.time[ties].min()), abs=1e-7), f"instance {seed + 4}"


def test_infeasible_instances_are_reported_with_what_is_reachable() -> None:
    for seed in range(0, INSTANCES, 5):
        problem = instance(seed)
        assert solve(problem) is None
        table, least = Table(problem), fastest(problem)
        assert least is not None
        assert least.time == pytest.approx(float(table.time[table.legal].min()), abs=1e-9)
        assert least.time > problem.limit


def test_the_instances_have_what_they_promise() -> None:
    problems = [instance(seed) for seed in range(INSTANCES)]
    bound = [bool((~Table(p).legal).any()) for p in problems]
    assert all(p.requires and p.excludes and p.boundaries and p.forbidden for p in problems)
    assert all(bound)
    assert sum(solve(p) is None for p in problems[:50]) == 10
