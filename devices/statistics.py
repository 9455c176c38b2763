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

The 90th and the 99th percentile are bounded in the same two ways. An upper bound of a percentile p
needs samples beyond it: with n of them the largest is above it with probability 1 - p^n, and where
that is below 97.5% (n under 36 for p90, under 368 for p99) there is no bound to give.

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
from scipy.special import bdtrc, ndtr, stdtrit  # scipy.stats takes a second to import

from compiler.records import Round, Statistics

CLUSTERS = 5
RESAMPLES = 2000
POINTS = 8192  # a round of many samples stands in the bootstrap as evenly spaced order statistics
CHUNK = 100
QUANTILES = (0.5, 0.9, 0.99)
CONFIDENT = 0.975  # of each bound

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians, or other quantiles, by round; `low` and `high` bound it (bootstrap, 95%)."""

    value: float
    low: float
    high: float
    rounds: int


def summarise(
    rounds: Sequence[Sequence[int]], resamples: int = RESAMPLES, seed: int = 0, *, tails: bool = True
) -> Statistics:
    """Return the statistics of the samples of all rounds, pooled.

    Intervals resample whole rounds where there are five or more, because samples within a round are
    correlated; see the module. Without `tails` only the median has one, which is quicker. Raises
    ValueError without samples.
    """
    clusters = [np.sort(np.asarray(r, dtype=np.float64)) for r in rounds if len(r)]
    if not clusters:
        raise ValueError("statistics need at least one sample")
    pooled = np.sort(np.concatenate(clusters))
    bounded = QUANTILES if tails else QUANTILES[:1]
    if len(clusters) >= CLUSTERS:
        drawn = _cluster_quantiles(clusters, bounded, resamples, seed)
        pairs = [np.percentile(values, _tails(len(clusters))) for values in drawn]
    else:
        pairs = [_independent_interval(pooled, q) for q in bounded]
    bounds = [(float(low), float(high)) for low, high in pairs]
    known = {
        f"p{q * 100:.0f}_{end}": value
        for q, pair in zip(bounded[1:], bounds[1:], strict=True)
        if 1 - q ** len(pooled) >= CONFIDENT
        for end, value in zip(("low", "high"), pair, strict=True)
    }
    median, p90, p99 = map(float, np.percentile(pooled, [100 * q for q in QUANTILES]))
    return Statistics(len(pooled), median, *bounds[0], p90, p99, float(pooled[0]), **known)


def ratio(
    a_rounds: Sequence[Round],
    b_rounds: Sequence[Round],
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    quantile: float = 0.5,
) -> Ratio:
    """Return how many times `a` takes as long as `b`, paired by round index.

    Each pair of rounds gives the ratio of its two medians, or of another `quantile` of its samples; the
    value is the median of those, the interval resamples pairs. Rounds marked throttled or noisy take
    their partner out with them. Raises ValueError where no clean pair is left.
    """
    a, b = _quantiles(a_rounds, quantile), _quantiles(b_rounds, quantile)
    pairs = sorted(a.keys() & b.keys())
    if not pairs:
        raise ValueError(
            "no two clean rounds have the same index: each round of one was disturbed, or the two were "
            "not measured together"
        )
    ratios = np.array([a[i] / b[i] for i in pairs])
    picks = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), _tails(len(ratios)))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def _tails(clusters: int) -> tuple[float, float]:
    """Return the two percentiles that bound the interval; see the module."""
    if clusters < 2:
        return 0.0, 100.0
    spread = math.sqrt(clusters / (clusters - 1)) * float(stdtrit(clusters - 1, 0.975))
    tail = 100 * float(ndtr(-spread))
    return tail, 100 - tail


def _quantiles(rounds: Sequence[Round], quantile: float) -> dict[int, float]:
    clean = [r for r in rounds if not (r.throttled or r.noisy) and r.samples]
    return {r.index: float(np.quantile(r.samples, quantile)) for r in clean}


def _cluster_quantiles(
    clusters: Sequence[Floats], quantiles: Sequence[float], resamples: int, seed: int
) -> Floats:
    """Return for each quantile that of the pooled samples, for each resampling of whole clusters."""
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
        _weighted_quantiles(points[order], draws[i : i + CHUNK][:, owner[order]] * weight[order], quantiles)
        for i in range(0, resamples, CHUNK)
    ]
    return np.concatenate(parts, axis=1)


def _weighted_quantiles(points: Floats, weights: NDArray[Any], quantiles: Sequence[float]) -> Floats:
    """Return for each quantile and row of weights the mean of the lower and upper one of sorted points."""
    reached = np.cumsum(weights, axis=1)
    found = []
    for q in quantiles:
        wanted = q * reached[:, -1:]
        lower = np.argmax(reached >= wanted * (1 - 1e-12), axis=1)
        upper = np.argmax(reached > wanted * (1 + 1e-12), axis=1)
        found.append((points[lower] + points[upper]) / 2)
    return np.stack(found)


def _thin(values: Floats, most: int) -> Floats:
    if len(values) <= most:
        return values
    thinned: Floats = np.quantile(values, (np.arange(most) + 0.5) / most)
    return thinned


def _independent_interval(values: Floats, quantile: float) -> tuple[float, float]:
    n = len(values)
    rank = math.ceil(quantile * n)
    at_most = bdtrc(rank - 1, n, np.arange(1, n + 1) / n)
    low, high = np.searchsorted(at_most, (1 - CONFIDENT, CONFIDENT))
    return float(values[low]), float(values[min(high, n - 1)])
