"""A plain random choice: the baseline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from compiler.search.calibration_selection import Call

FACT = "place"
LABELLED = False


def observe(calls: Iterable[Call]) -> NDArray[np.float64]:
    """Return the places of all samples; the model is not run."""
    return np.arange(sum(call.samples for call in calls), dtype=np.float64)


def select(facts: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` distinct places, all sets equally likely."""
    return random.choice(len(facts), count, replace=False)
