"""The integer programme: a multiple-choice knapsack with boundary costs and no-good cuts.

    min   sum_{g,o} cost[g,o] x[g,o]
    s.t.  sum_o x[g,o] = 1                                             for every group g
          sum_{g,o} t[g,o] x[g,o] + sum_{(u,v),a,c} b[a,c] y[u,a,v,c] <= limit
          y[u,a,v,c] >= x[u,a] + x[v,c] - 1,   0 <= y <= 1             where b[a,c] > 0
          sum_{g,o} bytes[g,o] x[g,o] <= most_bytes
          x[a] <= x[b] for `requires`,   x[a] + x[b] <= 1 for `excludes`
          sum_{(g,o) in c} x[g,o] <= |c| - 1                           for every cut c, excluded choices too

An option of infinite time or cost is not offered. x is binary. y may stay continuous: b is never
negative, so that an optimum needs no more of y than x forces. Ties in cost go to the faster choice: a
second programme minimises latency with the cost held at the optimum. Solved exactly by HiGHS through
`scipy.optimize.milp`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from compiler.search.space import Choice, Literal

Row = tuple[Mapping[int, float], float]  # column -> coefficient, and the most the sum may be

_FEASIBLE = 1e-9  # relative room for rounding when the cost is held at its optimum


@dataclass(frozen=True)
class Boundary:
    """What the formats on the two ends of a pair of groups cost: option pair -> time, never negative."""

    u: int
    v: int
    times: Mapping[tuple[int, int], float]

    def __post_init__(self) -> None:
        if any(t < 0 or not math.isfinite(t) for t in self.times.values()):
            raise ValueError(f"boundary times must be finite and not negative: {dict(self.times)}")


@dataclass(frozen=True)
class Problem:
    """One instance; `costs`, `times` and `sizes` hold one sequence of options for each group.

    Each of `cuts` is a set of options that may not all be taken together, whatever the other groups do.
    """

    costs: tuple[tuple[float, ...], ...]
    times: tuple[tuple[float, ...], ...]
    boundaries: tuple[Boundary, ...] = ()
    limit: float = math.inf
    sizes: tuple[tuple[float, ...], ...] = ()
    most_bytes: float = math.inf
    requires: tuple[tuple[Literal, Literal], ...] = ()
    excludes: tuple[tuple[Literal, Literal], ...] = ()
    forbidden: frozenset[Choice] = frozenset()
    cuts: frozenset[frozenset[Literal]] = frozenset()

    def offered(self, literal: Literal) -> bool:
        """Tell whether an option's time and cost are known."""
        group, option = literal
        return math.isfinite(self.times[group][option]) and math.isfinite(self.costs[group][option])

    def time(self, choice: Choice) -> float:
        """Return the time of a choice, boundaries included."""
        own = sum(t[o] for t, o in zip(self.times, choice, strict=True))
        return own + sum(b.times.get((choice[b.u], choice[b.v]), 0.0) for b in self.boundaries)

    def cost(self, choice: Choice) -> float:
        """Return the cost of a choice."""
        return sum(c[o] for c, o in zip(self.costs, choice, strict=True))


@dataclass(frozen=True)
class Solution:
    """An optimum, with its time and cost by the problem's own figures."""

    choice: Choice
    cost: float
    time: float


def solve(problem: Problem) -> Solution | None:
    """Return the cheapest choice within all limits, the fastest of equals; None where there is none."""
    table = _Columns(problem)
    cost, time = table.objective(problem.costs), table.time_row()
    first = _run(table, cost, table.rows(limited=True))
    if first is None:
        return None
    cheapest = _solution(problem, table, first)
    room = _FEASIBLE * float(np.abs(cost).max(initial=0.0))
    held: Row = (_sparse(cost), cheapest.cost + room)
    second = _run(table, time, [*table.rows(limited=True), held])
    faster = cheapest if second is None else _solution(problem, table, second)
    # The solver's own tolerance is wider than `room`: a choice that costs more is no tie.
    return faster if faster.cost <= cheapest.cost + room else cheapest


def fastest(problem: Problem) -> Solution | None:
    """Return the choice of least time, whatever it costs and whatever the limit; None where all are cut."""
    table = _Columns(problem)
    found = _run(table, table.time_row(), table.rows(limited=False))
    return None if found is None else _solution(problem, table, found)


@dataclass
class _Columns:
    """Where each variable of a problem stands in the solver's vector."""

    problem: Problem
    x: dict[Literal, int] = field(default_factory=dict)
    y: dict[tuple[Literal, Literal], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for g, options in enumerate(self.problem.costs):
            for o in range(len(options)):
                self.x[g, o] = len(self.x)
        for pair in self._boundary_times():
            self.y[pair] = len(self.x) + len(self.y)

    def _boundary_times(self) -> dict[tuple[Literal, Literal], float]:
        times: dict[tuple[Literal, Literal], float] = {}
        for b in self.problem.boundaries:
            for (a, c), t in b.times.items():
                if t > 0 and self.problem.offered((b.u, a)) and self.problem.offered((b.v, c)):
                    key = ((b.u, a), (b.v, c))
                    times[key] = times.get(key, 0.0) + t
        return times

    @property
    def count(self) -> int:
        return len(self.x) + len(self.y)

    def objective(self, table: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        vector = np.zeros(self.count)
        for (g, o), column in self.x.items():
            vector[column] = table[g][o] if self.problem.offered((g, o)) else 0.0
        return vector

    def most(self) -> NDArray[np.float64]:
        """Return the upper bound of each variable: 0 for an option that is not offered."""
        vector = np.ones(self.count)
        vector[[column for literal, column in self.x.items() if not self.problem.offered(literal)]] = 0.0
        return vector

    def time_row(self) -> NDArray[np.float64]:
        vector = self.objective(self.problem.times)
        for pair, t in self._boundary_times().items():
            vector[self.y[pair]] = t
        return vector

    def rows(self, limited: bool) -> list[Row]:
        """Return every inequality but the choice of one option a group."""
        p = self.problem
        rows: list[Row] = [({self.x[u]: 1, self.x[v]: 1, y: -1}, 1) for (u, v), y in self.y.items()]
        rows += [({self.x[a]: 1, self.x[b]: -1}, 0) for a, b in p.requires]
        rows += [({self.x[a]: 1, self.x[b]: 1}, 1) for a, b in p.excludes]
        for choice in sorted(p.forbidden):
            rows.append(({self.x[pair]: 1 for pair in enumerate(choice)}, len(choice) - 1))
        for cut in sorted(map(sorted, p.cuts)):
            rows.append(({self.x[pair]: 1 for pair in cut}, len(cut) - 1))
        if math.isfinite(p.most_bytes):
            rows.append((_sparse(self.objective(p.sizes)), p.most_bytes))
        if limited and math.isfinite(p.limit):
            rows.append((_sparse(self.time_row()), p.limit))
        return rows

    def one_each(self) -> LinearConstraint:
        groups = len(self.problem.costs)
        entries = [(g, column) for (g, _), column in self.x.items()]
        matrix = _matrix([(r, c, 1.0) for r, c in entries], groups, self.count)
        return LinearConstraint(matrix, np.ones(groups), np.ones(groups))

    def choice(self, values: NDArray[np.float64]) -> Choice:
        return tuple(
            max(range(len(options)), key=lambda o: values[self.x[g, o]])
            for g, options in enumerate(self.problem.costs)
        )


def _run(table: _Columns, objective: NDArray[np.float64], rows: Sequence[Row]) -> NDArray[np.float64] | None:
    """Return HiGHS's optimum, None where infeasible; RuntimeError where it gives up."""
    binary = np.array([1] * len(table.x) + [0] * len(table.y))
    scale = float(np.abs(objective).max(initial=0.0)) or 1.0  # tolerances of the solver are absolute
    constraints: list[Any] = [table.one_each()]
    if rows:
        constraints.append(_inequalities(rows, table.count))
    options = {"mip_rel_gap": 0.0}
    result = milp(
        objective / scale,
        integrality=binary,
        bounds=Bounds(0, table.most()),
        constraints=constraints,
        options=options,
    )
    if result.status == 2:
        return None
    if result.x is None or result.status != 0:
        raise RuntimeError(f"HiGHS stopped without an optimum: {result.message}")
    values: NDArray[np.float64] = result.x.copy()
    values[: len(table.x)] = np.round(values[: len(table.x)])
    return values


def _inequalities(rows: Sequence[Row], count: int) -> LinearConstraint:
    # Each row is scaled to coefficients of at most 1: the solver's feasibility tolerance is absolute.
    scales = [max((abs(v) for v in row.values()), default=0.0) or 1.0 for row, _ in rows]
    entries = [(i, c, v / scales[i]) for i, (row, _) in enumerate(rows) for c, v in row.items()]
    most = [bound / scale for (_, bound), scale in zip(rows, scales, strict=True)]
    return LinearConstraint(_matrix(entries, len(rows), count), -np.inf, np.array(most))


def _matrix(entries: Sequence[tuple[int, int, float]], rows: int, columns: int) -> Any:
    r, c, v = zip(*entries, strict=True) if entries else ((), (), ())
    return csr_array(
        (np.array(v, dtype=float), (np.array(r, dtype=int), np.array(c, dtype=int))), (rows, columns)
    )


def _sparse(vector: NDArray[np.float64]) -> dict[int, float]:
    return {int(i): float(vector[i]) for i in np.flatnonzero(vector)}


def _solution(problem: Problem, table: _Columns, values: NDArray[np.float64]) -> Solution:
    choice = table.choice(values)
    return Solution(choice, problem.cost(choice), problem.time(choice))
