r"""So many samples of each cluster as it is complex: DBP, Abbas et al., ICLR 2024, with random members.

The model's own features, scaled to length one, are cut into k clusters by k-means. Of cluster j,
:math:`d_{inter}` is the mean distance of its centre to the other centres and :math:`d_{intra}` that of
its members to its centre;

    :math:`P_j = \mathrm{softmax}_j(d_{inter} d_{intra} / \tau), \qquad
    \min_n \tfrac12 \| n - P N \|^2 \;\; \text{s.t.} \;\; \sum_j n_j = N, \; m_j \le n_j \le M_j,`

which needs no solver: :math:`n_j = \mathrm{clip}(P_j N + \mu, m_j, M_j)` for the one offset
:math:`\mu`, found by bisection, at which the sum is N. Here :math:`m_j = 1` (0 where there are more
clusters than samples wanted) and :math:`M_j` the size of the cluster; :math:`\tau = 1`.

The paper keeps the members farthest from the centre, for training. Calibration needs typical ones, so
they are drawn at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from compiler.search.calibration_selection import Call

FACT = "features"
LABELLED = False
FEWEST, MOST = 20, 50  # clusters
SHARE = 10  # samples wanted for each cluster
TAU = 1.0


def observe(calls: Iterable[Call]) -> NDArray[np.float64]:
    """Return each sample's features [n, d]."""
    return np.concatenate([call.answer.features.double().numpy() for call in calls])


def select(facts: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return random members of each cluster, as many as the allocation says."""
    unit = facts / np.maximum(np.linalg.norm(facts, axis=1, keepdims=True), np.finfo(float).tiny)
    labels, centres = _clusters(unit, min(max(FEWEST, min(MOST, count // SHARE)), len(facts)), random)
    sizes = np.bincount(labels, minlength=len(centres))
    least = np.minimum(sizes, 1 if len(centres) <= count else 0)
    wanted = count * shares(unit, labels, centres)
    numbers = whole(allocate(wanted, least, sizes))
    parts = [random.choice(np.flatnonzero(labels == j), n, replace=False) for j, n in enumerate(numbers) if n]
    places: NDArray[np.int64] = np.concatenate(parts)
    return places


def shares(
    points: NDArray[np.float64], labels: NDArray[np.int64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return P [k], the softmax of how far apart and how wide the clusters are."""
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2).sum(1) / max(1, len(centres) - 1)
    own = np.linalg.norm(points - centres[labels], axis=1)
    wide = np.bincount(labels, own, len(centres)) / np.maximum(np.bincount(labels, minlength=len(centres)), 1)
    score = apart * wide / TAU
    weights = np.exp(score - score.max())
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def allocate(
    wanted: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the real numbers nearest to `wanted` with its sum, within bounds whose sums hold it between."""
    total = wanted.sum()
    low, high = float((least - wanted).min()), float((most - wanted).max())
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(wanted + middle, least, most).sum() < total:
            low = middle
        else:
            high = middle
    found: NDArray[np.float64] = np.clip(wanted + high, least, most)
    return found


def whole(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole numbers of the same whole sum, each less than one away: largest remainders.

    They keep within all bounds that are whole numbers and hold the given ones.
    """
    floor = np.floor(numbers + 1e-9).astype(np.int64)
    missing = round(float(numbers.sum())) - int(floor.sum())
    order = np.argsort(-(numbers - floor), kind="stable")
    floor[order[:missing]] += 1
    return floor


def _clusters(
    points: NDArray[np.float64], count: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each point's cluster and the centres; equal points may leave fewer clusters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        means = KMeans(count, n_init=1, random_state=int(random.integers(2**31))).fit(points)
    used, labels = np.unique(means.labels_, return_inverse=True)
    return labels.astype(np.int64), means.cluster_centers_[used].astype(np.float64)
