"""Order statistics of samples, with bootstrap intervals that respect rounds.

Samples within a round share a clock, a temperature and the machine's mood, so they are
correlated, and resampling them one by one gives an interval far too narrow. Where there are at
least `CLUSTERS` rounds, whole rounds are resampled (the cluster bootstrap, Davison and Hinkley,
"Bootstrap Methods and their Application", 1997, section 3.8) and the median of the pooled samples
is taken. The interval is the middle 95% of those medians, expanded for the few rounds there are:
with k rounds the tails are Phi(-sqrt(k/(k-1)) t) instead of Phi(-1.96), where t is the 97.5%
quantile of Student's t with k-1 degrees of freedom (Hesterberg, The American Statistician 69,
2015, section 5.2).

With fewer rounds the samples are taken as independent. The bootstrap distribution of their
median is then known in closed form and needs no resampling (Maritz and Jarrett, JASA 73, 1978):
the median of a resample of n is at most the k-th smallest sample with the probability that a
binomial of n draws at k/n reaches the middle rank. Read such an interval as too narrow.

`ratio` compares two candidates that were measured interleaved: round i of one beside round i of
the other, so that what both rounds share cancels before the interval is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm, t

from compiler.records import Round, Statistics

CLUSTERS = 5
RESAMPLES = 2000
POINTS = 8192  # a round of many samples stands in the bootstrap as evenly spaced order statistics
CHUNK = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians, paired by round; `low` and `high` bound it (bootstrap, 95%)."""

    value: float
    low: float
    high: float
    rounds: int


def summarise(rounds: Sequence[Sequence[int]], resamples: int = RESAMPLES, seed: int = 0) -> Statistics:
    """Return the statistics of the samples of all rounds, pooled.

    The interval of the median resamples whole rounds where there are five or more, because
    samples within a round are correlated; see the module. Raises ValueError without samples.
    """
    clusters = [np.sort(np.asarray(r, dtype=np.float64)) for r in rounds if len(r)]
    if not clusters:
        raise ValueError("statistics need at least one sample")
    pooled = np.concatenate(clusters)
    if len(clusters) >= CLUSTERS:
        low, high = np.percentile(_cluster_medians(clusters, resamples, seed), _tails(len(clusters)))
    else:
        low, high = _independent_interval(np.sort(pooled))
    median, p90, p99 = np.percentile(pooled, (50, 90, 99))
    return Statistics(len(pooled), *map(float, (median, low, high, p90, p99, pooled.min())))


def ratio(
    a_rounds: Sequence[Round], b_rounds: Sequence[Round], resamples: int = RESAMPLES, seed: int = 0
) -> Ratio:
    """Return how many times `a` takes as long as `b`, paired by round index.

    Each pair of rounds gives the ratio of its two medians; the value is the median of those, the
    interval resamples pairs. Rounds marked throttled or noisy take their partner out with them.
    Raises ValueError where no clean pair is left.
    """
    a, b = _medians(a_rounds), _medians(b_rounds)
    pairs = sorted(a.keys() & b.keys())
    if not pairs:
        raise ValueError("no two clean rounds have the same index; were the two measured together?")
    ratios = np.array([a[i] / b[i] for i in pairs])
    picks = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), _tails(len(ratios)))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def _tails(clusters: int) -> tuple[float, float]:
    """Return the two percentiles that bound the interval; see the module."""
    if clusters < 2:
        return 0.0, 100.0
    spread = math.sqrt(clusters / (clusters - 1)) * t.ppf(0.975, clusters - 1)
    tail = 100 * float(norm.cdf(-spread))
    return tail, 100 - tail


def _medians(rounds: Sequence[Round]) -> dict[int, float]:
    clean = [r for r in rounds if not (r.throttled or r.noisy) and r.samples]
    return {r.index: float(np.median(r.samples)) for r in clean}


def _cluster_medians(clusters: Sequence[Floats], resamples: int, seed: int) -> Floats:
    """Return the median of the pooled samples for each resampling of whole clusters."""
    count = len(clusters)
    thinned = [_thin(c, max(16, POINTS // count)) for c in clusters]
    points = np.concatenate(thinned)
    # A thinned round keeps the weight of all its samples.
    weight = np.concatenate(
        [np.full(len(t), len(c) / len(t)) for t, c in zip(thinned, clusters, strict=True)]
    )
    owner = np.repeat(np.arange(count), [len(t) for t in thinned])
    order = np.argsort(points, kind="stable")
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    parts = [
        _weighted_medians(points[order], draws[i : i + CHUNK][:, owner[order]] * weight[order])
        for i in range(0, resamples, CHUNK)
    ]
    return np.concatenate(parts)


def _weighted_medians(points: Floats, weights: NDArray[Any]) -> Floats:
    """Return for each row of weights the mean of the lower and upper weighted median of sorted points."""
    reached = np.cumsum(weights, axis=1)
    half = reached[:, -1:] / 2
    lower = np.argmax(reached >= half * (1 - 1e-12), axis=1)
    upper = np.argmax(reached > half * (1 + 1e-12), axis=1)
    medians: Floats = (points[lower] + points[upper]) / 2
    return medians


def _thin(values: Floats, most: int) -> Floats:
    if len(values) <= most:
        return values
    thinned: Floats = np.quantile(values, (np.arange(most) + 0.5) / most)
    return thinned


def _independent_interval(values: Floats) -> tuple[float, float]:
    n = len(values)
    middle = math.ceil(n / 2)
    at_most = binom.sf(middle - 1, n, np.arange(1, n + 1) / n)
    low, high = np.searchsorted(at_most, (0.025, 0.975))
    return float(values[low]), float(values[min(high, n - 1)])
