r"""Stratified by margin: samples near a class boundary and clear ones, in the pool's own proportion.

The margin of a sample is :math:`p_{(1)} - p_{(2)}`, the two largest class probabilities apart: 0 on a
boundary, 1 where the model is certain. It needs no labels. Small margins are where a change of the
model flips an answer; they are never taken alone, for ranges must come from typical samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from compiler.search.calibration_selection import Call
from compiler.search.class_probabilities import class_probabilities
from compiler.search.strata import stratified

FACT = "margin"
LABELLED = False


def observe(calls: Iterable[Call]) -> NDArray[np.float64]:
    """Return each sample's margin, the mean over tokens or pixels where it has many distributions."""
    return np.concatenate([margins(class_probabilities(call)) for call in calls])


def margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return margins [n] of probabilities [n, places, C]."""
    best = np.partition(probabilities, -2, -1)
    found: NDArray[np.float64] = (best[..., -1] - best[..., -2]).mean(1)
    return found


def select(facts: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return one sample from each of `count` strata of the margin."""
    return stratified(facts, count, random)
