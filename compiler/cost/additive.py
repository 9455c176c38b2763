"""Times that add up over parts, fitted to a few whole programs: no part takes less than nothing.

    t(x) = w0 + Σ_p w_p x_p,   w ≥ 0,   minimising Σ_i ρ(t(x_i) / t_i - 1)

Errors are relative, for those are what budgets are broken by, and large ones count less and less: ρ is that
of Cauchy, `log(1 + (r / 1.5 s)²)`, s the median absolute error, by reweighted non-negative least squares. A
phone that was busy during one reading of ten would otherwise move every part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

STEPS = 6
LEAST_ERROR = 0.005  # relative; below it errors are no longer told apart
MEDIAN_TO_DEVIATION = 1.4826  # of a normal distribution
CAUCHY = 1.5


@dataclass(frozen=True)
class Additive:
    """Fitted times: `fixed` for any program, and one for each unit of each part."""

    fixed: float
    times: Floats

    def predict(self, parts: Floats) -> Floats:
        """Return the times of programs, of which row i of `parts` [n, p] holds the amounts."""
        return np.maximum(self.fixed + parts @ self.times, np.finfo(float).tiny)


def fit_additive(parts: Floats, times: Floats) -> Additive:
    """Return what parts take, from programs with amounts `parts` [n, p] and positive `times` [n]."""
    scale = np.maximum(np.abs(parts).max(0), np.finfo(float).tiny)
    rows = np.concatenate([np.ones((len(parts), 1)), parts / scale], 1) / times[:, None]
    weights = np.ones(len(times))
    for _ in range(STEPS):
        found = nnls(rows * weights[:, None], weights)[0]
        errors = rows @ found - 1
        spread = max(MEDIAN_TO_DEVIATION * float(np.median(np.abs(errors))), LEAST_ERROR)
        weights = 1 / np.sqrt(1 + (errors / (CAUCHY * spread)) ** 2)
    return Additive(float(found[0]), found[1:] / scale)
