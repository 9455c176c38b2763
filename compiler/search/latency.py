"""A latency model fitted to whole measured variants: sites add up, and where choices meet they do not.

Times are multiples of the base variant's own latency, measured interleaved with it, so that drift
of the machine cancels. For a choice p over sites g, links e (values exchanged by two sites) and
overlaps (u, v) (sites that change the same operations):

    T(p) = 1 + sum_g d[g, p(g)] + sum_{e crossed by p} (alpha + beta bytes(e))
             + gamma sum_{(u,v)} weight[u,v] s[u, p(u)] s[v, p(v)],      s = max(0, -d),

alpha, beta, gamma >= 0. d is what an option changes at a site, kept formats on its outer edges included;
alpha and beta price the quantise and dequantise pairs where the formats on the two ends of a link differ.
The last term is what two savings at the same operations do not save twice: with gamma = 1 the second
one saves its share of what the first has left. It never exceeds the lesser of the two savings.

The parameters are fitted by least squares with bounds (`scipy.optimize.lsq_linear`), each observation
weighted by the inverse of its standard error. The overlaps are bilinear in d and gamma: their products
are taken from the fit before, and the fit is repeated until nothing changes.

What identifies what: n single departures and one uniform choice give n + 1 equations for n + 2
unknowns with two options a site. Adding the singles and taking away the uniform choice leaves the
boundaries, each counted twice,

    sum_g (T(single g) - 1) - (T(uniform) - 1) = 2 sum_e (alpha + beta bytes(e)),

so that the sum of all boundaries is known and its split is not. A weak prior holds alpha at 0, and
another gamma at 1, until mixed choices have been measured; then the observations decide. Every
measured choice is fed back. An option that was never measured alone has no time of its own: it is
infinite here, so that no solver takes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from compiler.search.solver import Boundary
from compiler.search.space import Choice, Link, Literal, Overlap, Space, boundary_format

LEAST_ERROR = 1e-3  # no reading of a clock is trusted further than a thousandth of the base
PRIOR_ERROR = 0.5  # alpha, added over all links, is within half the base's latency of 0: hardly a constraint
GAMMA, GAMMA_ERROR = 1.0, 1.0
GUESS_ERROR = 0.3  # of an option measured only together with others: near what is guessed, else nothing
ROUNDS = 20

Times = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Observation:
    """A measured choice: its time over the base's, and that ratio's standard error."""

    choice: Choice
    ratio: float
    error: float


@dataclass(frozen=True)
class LatencyModel:
    """Fitted times over the base's latency; `alpha` for each crossed link, `beta` for each of its bytes.

    `gamma` scales what two savings at the same operations do not save twice.
    """

    space: Space
    times: Times
    alpha: float
    beta: float
    gamma: float = GAMMA

    def predict(self, choice: Choice) -> float:
        """Return a choice's time over the base's; infinite where an option of it was not measured."""
        own = sum(t[o] for t, o in zip(self.times, choice, strict=True))
        crossing = sum(self.crossing(link) for link in self.space.crossed(choice))
        shared = sum(self.shared(o, choice[o.u], choice[o.v]) for o in self.space.overlaps)
        return 1 + own + crossing + shared

    def crossing(self, link: Link) -> float:
        """Return the time of converting a link's values, over the base's latency."""
        return self.alpha + self.beta * link.bytes

    def shared(self, overlap: Overlap, first: int, second: int) -> float:
        """Return the part of two options' savings that is saved once only."""
        return _shared(self.times, overlap, first, second, self.gamma)

    def boundaries(self) -> tuple[Boundary, ...]:
        """Return the links and the overlaps as the integer programme takes them."""
        links = [Boundary(link.u, link.v, self._pairs(link)) for link in self.space.links]
        overlaps = [Boundary(o.u, o.v, self._joint(o)) for o in self.space.overlaps]
        return (*links, *overlaps)

    def _pairs(self, link: Link) -> dict[tuple[int, int], float]:
        left, right = self.space.sites[link.u].options, self.space.sites[link.v].options
        time = self.crossing(link)
        left, right = (tuple(map(boundary_format, options)) for options in (left, right))
        return {(a, c): time for a, p in enumerate(left) for c, q in enumerate(right) if p != q}

    def _joint(self, overlap: Overlap) -> dict[tuple[int, int], float]:
        left, right = (range(1, len(self.times[g])) for g in (overlap.u, overlap.v))
        times = {(a, c): self.shared(overlap, a, c) for a in left for c in right}
        return {pair: t for pair, t in times.items() if t > 0}


def fit_latency(
    space: Space, observations: Sequence[Observation], guesses: Mapping[Literal, float] | None = None
) -> LatencyModel:
    """Return the model that fits the observations best.

    An option with no observation of its own, alone beside the base, gets infinite time; `guesses` (0
    without) stand for it where it was measured together with others.
    """
    alone = {space.taken(seen.choice)[0] for seen in observations if len(space.taken(seen.choice)) == 1}
    columns = {literal: i for i, literal in enumerate(space.literals())}
    scale = max((link.bytes for link in space.links), default=0) or 1
    rows = np.array([_row(space, columns, seen.choice, scale) for seen in observations])
    rows = rows.reshape(-1, len(columns) + 3)
    weights = 1 / np.maximum([seen.error for seen in observations], LEAST_ERROR)
    target = np.array([seen.ratio - 1 for seen in observations])
    prior, held = _prior(space, columns, alone, guesses or {})
    fitted = np.array([*_start(space, observations), 0.0, 0.0, GAMMA])
    for _ in range(ROUNDS):
        rows[:, -1] = [_shared_in(space, columns, fitted, seen.choice) for seen in observations]
        before, fitted = fitted, _solve(rows, weights, target, prior, held)
        if np.allclose(before, fitted, rtol=0, atol=1e-9) or not space.overlaps:
            break
    times = _table(space, columns, fitted, alone)
    return LatencyModel(space, times, float(fitted[-3]), float(fitted[-2] / scale), float(fitted[-1]))


def _solve(
    rows: NDArray[np.float64],
    weights: NDArray[np.float64],
    target: NDArray[np.float64],
    prior: NDArray[np.float64],
    held: NDArray[np.float64],
) -> NDArray[np.float64]:
    matrix = np.vstack([rows * weights[:, None], prior])
    lower = np.full(rows.shape[1], -np.inf)
    lower[-3:] = 0.0
    # The active set ends after finitely many steps; scipy's default, `trf`, can backtrack for ever here.
    known = np.append(target * weights, held)
    fitted: NDArray[np.float64] = lsq_linear(
        matrix, known, bounds=(lower, np.inf), method="bvls", tol=1e-12
    ).x
    return fitted


def _start(space: Space, observations: Sequence[Observation]) -> list[float]:
    """Return the single departures as they were measured, 0 where they were not."""
    found = {space.taken(s.choice): s.ratio - 1 for s in observations}
    return [found.get((literal,), 0.0) for literal in space.literals()]


def _row(space: Space, columns: Mapping[Literal, int], choice: Choice, scale: int) -> NDArray[np.float64]:
    row = np.zeros(len(columns) + 3)
    for literal in space.taken(choice):
        row[columns[literal]] = 1
    crossed = space.crossed(choice)
    row[-3:-1] = len(crossed), sum(link.bytes for link in crossed) / scale
    return row


def _shared_in(
    space: Space, columns: Mapping[Literal, int], fitted: NDArray[np.float64], choice: Choice
) -> float:
    """Return the coefficient of gamma in a choice's row, by the savings fitted so far."""
    everything = set(columns)
    times = _table(space, columns, fitted, everything)
    gamma = float(fitted[-1])
    shared = sum(_shared(times, o, choice[o.u], choice[o.v], gamma or GAMMA) for o in space.overlaps)
    return shared / (gamma or GAMMA)


def _shared(times: Times, overlap: Overlap, first: int, second: int, gamma: float) -> float:
    saved = [max(0.0, -times[g][o]) for g, o in ((overlap.u, first), (overlap.v, second))]
    return min(gamma * overlap.weight * saved[0] * saved[1], *saved)


def _prior(
    space: Space, columns: Mapping[Literal, int], alone: set[Literal], guesses: Mapping[Literal, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows, and what they should give: alpha near 0, gamma near 1, unmeasured options as guessed."""
    missing = [literal for literal in columns if literal not in alone]
    rows = np.zeros((2 + len(missing), len(columns) + 3))
    rows[0, -3] = max(1, len(space.links)) / PRIOR_ERROR
    rows[1, -1] = 1 / GAMMA_ERROR
    for row, literal in enumerate(missing, start=2):
        rows[row, columns[literal]] = 1 / GUESS_ERROR
    held = [0.0, GAMMA / GAMMA_ERROR, *(guesses.get(literal, 0.0) / GUESS_ERROR for literal in missing)]
    return rows, np.array(held)


def _table(
    space: Space, columns: Mapping[Literal, int], fitted: NDArray[np.float64], known: set[Literal]
) -> Times:
    def time(site: int, option: int) -> float:
        if option == 0:
            return 0.0
        return float(fitted[columns[site, option]]) if (site, option) in known else math.inf

    return tuple(tuple(time(g, o) for o in range(len(site.options))) for g, site in enumerate(space.sites))
