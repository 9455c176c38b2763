"""A search guided by Gaussian processes: expected improvement of the cost, times the chance to be feasible.

Two processes (`compiler.cost.process`) on numbers that describe a choice, one for the cost and one for the
logarithm of the latency's upper bound. With c* the least feasible cost, m and s the process's mean and
deviation, z = (c* - m) / s, and φ, Φ the normal density and distribution,

    EI = s (z Φ(z) + φ(z)),   P = Φ((log limit - m_t) / s_t),   the next choice is that of the largest EI P

(Schonlau, Welch and Jones, 1998); while nothing is feasible it is that of the largest P. Costs far above the
middle count as of one size: how bad the bad are says nothing of the best. Candidates are choices drawn at
random and the neighbours of the best.

It needs no single departures and supposes no sum: the strategy for what does not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from compiler.cost.process import GRID, Shape, fit_process
from compiler.search.space import Choice, Space
from compiler.search.strategy import Setting, draw, excess, generator, rank
from compiler.search.trial import Trial

Floats = NDArray[np.float64]
Describe = Callable[[Choice], Sequence[float]]

STARTS = 10  # choices at random before anything is fitted
DRAWN = 1500  # candidates at random
BEST = 8  # trials whose neighbours are candidates
EVERY = 10  # trials after which the processes' shapes are chosen again
DENSITY = 1 / np.sqrt(2 * np.pi)  # of a standard normal at its middle
CLIP = 3.0  # distances from the least cost to the middle, beyond which costs are of one size


class Surrogate:
    """Proposes the candidate of the largest expected feasible improvement."""

    def __init__(self, setting: Setting, describe: Describe | None = None) -> None:
        """Describe choices by `describe`, or by an indicator of each option at each site."""
        self._setting = setting
        self._describe = describe or _indicators(setting.space)
        self._known: dict[Choice, Floats] = {}
        self._shapes: dict[tuple[int, str], Shape] = {}

    def propose(self, trials: Sequence[Trial], refused: Collection[Choice] = ()) -> Choice | None:
        """Return the most promising candidate, None where every choice was measured or refused."""
        random = generator(self._setting, len(trials), len(refused))
        seen = {trial.choice for trial in trials} | set(refused)
        if len(trials) < STARTS:
            return draw(self._setting.space, random, seen)
        candidates = self._candidates(trials, seen, random)
        if not candidates:
            return draw(self._setting.space, random, seen)
        return candidates[int(np.argmax(self._promise(trials, self._points(candidates))))]

    def _promise(self, trials: Sequence[Trial], points: Floats) -> Floats:
        """Return the logarithm of EI P, up to a constant."""
        limit = self._setting.budget.limit(trials[-1].reading.base_ns)
        over = np.array([excess(t, self._setting) for t in trials])
        times = np.log(np.maximum(over + limit, 1e-3 * limit))
        mean, error = self._predict(trials, times, points, "latency")
        feasible: Floats = log_ndtr((np.log(limit) - mean) / error)
        costs = np.array([trial.price[0] for trial in trials])
        if not (over <= 0).any():
            return feasible
        middle, least = float(np.median(costs)), float(costs.min())
        bounded = np.minimum(costs, least + CLIP * (middle - least)) if middle > least else costs
        mean, error = self._predict(trials, bounded, points, "cost")
        z = (float(bounded[over <= 0].min()) - mean) / error
        improvement = error * (z * ndtr(z) + DENSITY * np.exp(-z * z / 2))
        return np.asarray(np.log(np.maximum(improvement, 1e-300)) + feasible)

    def _predict(
        self, trials: Sequence[Trial], values: Floats, points: Floats, what: str
    ) -> tuple[Floats, Floats]:
        """Return a process's means and deviations; its shape is that of the last round number of trials."""
        known = self._points([trial.choice for trial in trials])
        count = max(STARTS, len(trials) // EVERY * EVERY)
        if (count, what) not in self._shapes:
            self._shapes[count, what] = fit_process(known[:count], values[:count], GRID).shape
        return fit_process(known, values, (self._shapes[count, what],)).predict(points)

    def _candidates(
        self, trials: Sequence[Trial], seen: Collection[Choice], random: np.random.Generator
    ) -> list[Choice]:
        space = self._setting.space
        sizes = [len(site.options) for site in space.sites]
        drawn = {tuple(map(int, row)) for row in random.integers(sizes, size=(DRAWN, len(sizes)))}
        best = sorted(trials, key=lambda trial: rank(trial, self._setting))[:BEST]
        near = {other for trial in best for other in _neighbours(trial.choice, sizes)}
        return sorted(choice for choice in drawn | near if choice not in seen)

    def _points(self, choices: Sequence[Choice]) -> Floats:
        for choice in choices:
            if choice not in self._known:
                self._known[choice] = np.asarray(self._describe(choice), dtype=np.float64)
        return np.stack([self._known[choice] for choice in choices])


def open_strategy(setting: Setting) -> Surrogate:
    """Return the guided search, choices described by their options."""
    return Surrogate(setting)


def _indicators(space: Space) -> Describe:
    def describe(choice: Choice) -> list[float]:
        pairs = zip(space.sites, choice, strict=True)
        return [float(o == taken) for site, taken in pairs for o in range(1, len(site.options))]

    return describe


def _neighbours(choice: Choice, sizes: Sequence[int]) -> list[Choice]:
    return [
        (*choice[:g], o, *choice[g + 1 :])
        for g, size in enumerate(sizes)
        for o in range(size)
        if o != choice[g]
    ]
