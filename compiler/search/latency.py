"""A latency model fitted to whole measured variants: sites add up, and format changes cost.

Times are multiples of the base variant's own latency, measured interleaved with it, so that drift
of the machine cancels. For a choice p over sites g and links e (values exchanged by two sites):

    T(p) = 1 + sum_g d[g, p(g)] + sum_{e crossed by p} (alpha + beta bytes(e)),   alpha, beta >= 0

d is what an option changes at a site, kept formats on its outer edges included; alpha and beta
price the quantise and dequantise pairs where the formats on the two ends of a link differ. They
are fitted by least squares with bounds (`scipy.optimize.lsq_linear`), each observation weighted by
the inverse of its standard error.

What identifies what: n single departures and one uniform choice give n + 1 equations for n + 2
unknowns with two options a site. Adding the singles and taking away the uniform choice leaves the
boundaries, each counted twice,

    sum_g (T(single g) - 1) - (T(uniform) - 1) = 2 sum_e (alpha + beta bytes(e)),

so that the sum of all boundaries is known and its split is not. A weak prior holds alpha at 0 until
a mixed choice has been measured; then the observations decide. Every measured choice is fed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from compiler.search.solver import Boundary
from compiler.search.space import Choice, Link, Space

LEAST_ERROR = 1e-3  # no reading of a clock is trusted further than a thousandth of the base
PRIOR_ERROR = 0.5  # alpha, added over all links, is within half the base's latency of 0: hardly a constraint


@dataclass(frozen=True)
class Observation:
    """A measured choice: its time over the base's, and that ratio's standard error."""

    choice: Choice
    ratio: float
    error: float


@dataclass(frozen=True)
class LatencyModel:
    """Fitted times over the base's latency; `alpha` for each crossed link, `beta` for each of its bytes."""

    space: Space
    times: tuple[tuple[float, ...], ...]
    alpha: float
    beta: float

    def predict(self, choice: Choice) -> float:
        """Return a choice's time over the base's."""
        own = sum(t[o] for t, o in zip(self.times, choice, strict=True))
        return 1 + own + sum(self.crossing(link) for link in self.space.crossed(choice))

    def crossing(self, link: Link) -> float:
        """Return the time of converting a link's values, over the base's latency."""
        return self.alpha + self.beta * link.bytes

    def boundaries(self) -> tuple[Boundary, ...]:
        """Return the links as the integer programme takes them."""
        return tuple(Boundary(link.u, link.v, self._pairs(link)) for link in self.space.links)

    def _pairs(self, link: Link) -> dict[tuple[int, int], float]:
        left, right = self.space.sites[link.u].options, self.space.sites[link.v].options
        time = self.crossing(link)
        return {(a, c): time for a, p in enumerate(left) for c, q in enumerate(right) if p != q}


def fit_latency(space: Space, observations: Sequence[Observation]) -> LatencyModel:
    """Return the model that fits the observations best.

    Raises ValueError where an option of a site stands in no observation.
    """
    columns = _columns(space)
    unseen = set(columns) - {(g, o) for seen in observations for g, o in enumerate(seen.choice)}
    if unseen:
        raise ValueError(f"no observation holds (site, option) {sorted(unseen)}")
    scale = max((link.bytes for link in space.links), default=0) or 1
    rows = np.array([_row(space, columns, seen.choice, scale) for seen in observations])
    weights = 1 / np.maximum([seen.error for seen in observations], LEAST_ERROR)
    matrix = np.vstack([rows * weights[:, None], _prior(space, rows.shape[1])])
    target = np.append([seen.ratio - 1 for seen in observations] * weights, 0.0)
    lower = np.full(rows.shape[1], -np.inf)
    lower[-2:] = 0.0
    # The active set ends after finitely many steps; scipy's default, `trf`, can backtrack for ever here.
    fitted = lsq_linear(matrix, target, bounds=(lower, np.inf), method="bvls", tol=1e-12).x
    return LatencyModel(space, _table(space, columns, fitted), float(fitted[-2]), float(fitted[-1] / scale))


def _columns(space: Space) -> dict[tuple[int, int], int]:
    pairs = [(g, o) for g, site in enumerate(space.sites) for o in range(1, len(site.options))]
    return {pair: i for i, pair in enumerate(pairs)}


def _row(
    space: Space, columns: dict[tuple[int, int], int], choice: Choice, scale: int
) -> NDArray[np.float64]:
    row = np.zeros(len(columns) + 2)
    for g, o in enumerate(choice):
        if o:
            row[columns[g, o]] = 1
    crossed = space.crossed(choice)
    row[-2:] = len(crossed), sum(link.bytes for link in crossed) / scale
    return row


def _prior(space: Space, width: int) -> NDArray[np.float64]:
    row = np.zeros((1, width))
    row[0, -2] = max(1, len(space.links)) / PRIOR_ERROR
    return row


def _table(
    space: Space, columns: dict[tuple[int, int], int], fitted: NDArray[np.float64]
) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(float(fitted[columns[g, o]]) if o else 0.0 for o in range(len(site.options)))
        for g, site in enumerate(space.sites)
    )
