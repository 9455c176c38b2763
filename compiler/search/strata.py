"""Stratified sampling along one score: each part of its distribution in proportion.

The pool is sorted by score and cut into as many strata as samples are wanted, their sizes equal give
or take one; one sample is drawn from each. Every quantile of the score is then met to within one
stratum, where a plain random choice is off by the order of the root of the count, and the mean of
anything that follows the score varies less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified(scores: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of `count` distinct samples, one from each stratum; equal scores are shuffled."""
    shuffled = random.permutation(len(scores))
    order = shuffled[np.argsort(scores[shuffled], kind="stable")]
    places: NDArray[np.int64] = np.array([random.choice(part) for part in np.array_split(order, count)])
    return places
