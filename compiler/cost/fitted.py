"""A latency model fitted to measured kernels: predictions with intervals, never taken for measurements.

The logarithm of a kernel's time over its price by a mean function (the roofline prior, or the model of
another device) is a Gaussian process over `features`:

    k(x, x') = offset² + slope² <x, x'>                                         all kinds together
             + [same kind] (offset_k² + slope_k² <x, x'> + bend² matern(|x - x'| / length))

so that a kind with few readings borrows the slopes of all, and one with many bends where its times do.
Matérn's function of order 3/2, `(1 + √3 d) exp(-√3 d)`, has kinks enough for runtimes, which change their
code from one size to the next; the Gaussian bell was a third further off on published operators.
It is one positive definite system of as many unknowns as there are readings. This was chosen over trees,
which need thousands of readings where a calibration has hundreds, and which say nothing of how far off
they may be; and over a library, which would be a dependency for thirty lines of linear algebra.

Leaving a group of readings G out needs no second fit. With A = (K + noise)⁻¹ and a = A y, all without G,

    residuals of G = A_GG⁻¹ a_G,   mean(x) = k(x)ᵀ(a - A_·G A_GG⁻¹ a_G)

which makes the jackknife+ interval (Barber, Candès, Ramdas and Tibshirani, Annals of Statistics 49, 2021)
cost one product: the quantiles, over all readings i, of `mean_without_i(x) ± |residual_i| s(x) / s_i`.
Standard deviations s of the process scale them, so that a kernel far from all readings has a wide interval;
readings of its own kind are taken where there are enough. Hyperparameters are those of the least
cross-validated log density on a small grid. A kind without a reading has no prediction: 0 would win
every comparison, and nn-Meter's users found theirs did.

Few readings of a new device suffice with another device's model for the mean: what is fitted are the scale,
the slope against that model, and each kind's departure from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from compiler.cost.features import Features, features
from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import Entry

PERCENT = 90  # of predictions' intervals; a measured entry's is of 95
OWN_KIND = 10  # readings of a kind that suffice for intervals of its own
MOST_READINGS = 2500
FEW = 40  # readings below which hyperparameters are not chosen by them
GRID = tuple(product((0.3, 0.8), (1.0, 2.0, 4.0), (0.03, 0.08)))  # bend, length, noise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """A measured kernel; readings of one `group`, such as those of one network, are left out together."""

    kernel: Kernel
    entry: Entry
    group: str = ""


@dataclass(frozen=True)
class Prediction:
    """A predicted latency, in the unit of the readings; `low` and `high` hold it in 90 of 100 cases.

    `like` counts the measured kernels of the same kind.
    """

    median: float
    low: float
    high: float
    kind: str
    like: int


@dataclass(frozen=True)
class Shape:
    """Hyperparameters: standard deviations in the logarithm of time, and a length in scaled features."""

    bend: float
    length: float
    noise: float
    offset: float = 2.0
    slope: float = 0.3
    own_offset: float = 0.5
    own_slope: float = 0.1


CAUTIOUS = Shape(bend=0.3, length=4.0, noise=0.08)
# Against another device's model: its scale, and a little of everything else.
MOVED = Shape(bend=0.1, length=4.0, noise=0.2, slope=0.1, own_offset=0.3, own_slope=0.03)


@dataclass(frozen=True)
class FittedModel:
    """A model of one device, target, thread count and metric; make one with `fit`."""

    kinds: tuple[str, ...]
    points: Floats
    centre: Floats
    spread: Floats
    shape: Shape
    base: Callable[[Kernel, Features], float | None]
    weights: Floats  # (K + noise)⁻¹ y
    inverse: Floats  # (K + noise)⁻¹
    without: Floats  # a column for each group: what leaving it out takes off `weights`
    group: NDArray[np.int64]
    residuals: Floats
    errors: Floats
    counts: dict[str, int] = field(default_factory=dict)

    def predict(self, kernel: Kernel) -> Prediction | None:
        """Return a kernel's predicted latency, None where no kernel of its kind was measured."""
        found = self._seen(kernel)
        if found is None:
            return None
        seen, log_base = found
        near = self._near([seen])[0]
        mean = log_base + float(near @ self.weights)
        error = math.sqrt(self._covariance([seen])[0, 0] + self.shape.noise**2)
        low, high = self._interval(seen.kind, near, log_base, error)
        bounds = (math.exp(min(low, mean)), math.exp(max(high, mean)))
        return Prediction(math.exp(mean), *bounds, seen.kind, self.counts[seen.kind])

    @property
    def left_out_error(self) -> float:
        """The median relative error of readings that were left out of the fit."""
        return float(np.median(np.abs(np.expm1(-self.residuals))))

    def covariance(self, kernels: Sequence[Kernel]) -> Floats:
        """Return the covariance of the logarithms of kernels' times, scaled to what errors were seen.

        KeyError for a kernel without a prediction.
        """
        seen = [found[0] for kernel in kernels if (found := self._seen(kernel))]
        if len(seen) < len(kernels):
            raise KeyError("a kernel without a prediction")
        own = self._covariance(seen) + np.eye(len(seen)) * self.shape.noise**2
        return own * self._scale() ** 2

    def _seen(self, kernel: Kernel) -> tuple[Features, float] | None:
        seen = features(kernel)
        base = self.base(kernel, seen) if seen is not None and seen.kind in self.counts else None
        return None if seen is None or base is None else (seen, math.log(base))

    def _near(self, seen: Sequence[Features]) -> Floats:
        points = (np.array([s.values for s in seen]) - self.centre) / self.spread
        return _similarity(points, [s.kind for s in seen], self.points, self.kinds, self.shape)

    def _covariance(self, seen: Sequence[Features]) -> Floats:
        points = (np.array([s.values for s in seen]) - self.centre) / self.spread
        kinds = [s.kind for s in seen]
        near = self._near(seen)
        own = _similarity(points, kinds, points, kinds, self.shape)
        found: Floats = own - near @ self.inverse @ near.T
        return np.where(np.eye(len(seen), dtype=bool), np.maximum(found, 0.0), found)

    def _interval(self, kind: str, near: Floats, log_base: float, error: float) -> tuple[float, float]:
        own = np.array([k == kind for k in self.kinds])
        used = own if own.sum() >= OWN_KIND else np.ones(len(self.kinds), dtype=bool)
        scaled = np.abs(self.residuals[used]) * error / self.errors[used]
        left_out = log_base + near @ self.weights - near @ self.without
        means = left_out[self.group[used]]
        rank = int(np.ceil(PERCENT / 100 * (len(scaled) + 1)))
        if rank > len(scaled):  # too few for a quantile: Student's t on the scale of the few
            mean = log_base + float(near @ self.weights)
            reach = float(stdtrit(max(1, len(scaled) - 1), 0.5 + PERCENT / 200)) * error * self._scale()
            return mean - reach, mean + reach
        return float(-np.sort(scaled - means)[rank - 1]), float(np.sort(means + scaled)[rank - 1])

    def _scale(self) -> float:
        """Return how many times the process's own standard deviations the left-out errors were."""
        return float(np.sqrt(np.mean((self.residuals / self.errors) ** 2)))


def fit(readings: Sequence[Reading], other: FittedModel | None = None) -> FittedModel:
    """Return the model of readings; `other` is the model of another device to start from.

    Of more than `MOST_READINGS` an even selection is taken. Raises ValueError for fewer than two readings
    with features that a model of the other device, if there is one, predicts.
    """
    base = _roofline if other is None else _of(other)
    usable = [(r, seen, b) for r in readings if (seen := features(r.kernel)) and (b := base(r.kernel, seen))]
    usable = usable[:: -(-len(usable) // MOST_READINGS)] if usable else usable
    if len(usable) < 2:
        raise ValueError(f"a model needs at least 2 measured kernels, there are {len(usable)}")
    raw = np.array([seen.values for _, seen, _ in usable])
    centre, spread = raw.mean(0), np.maximum(raw.std(0), 0.5)
    kinds = tuple(seen.kind for _, seen, _ in usable)
    names = [r.group or r.kernel.text for r, _, _ in usable]
    _, group = np.unique(names, return_inverse=True)
    target = np.array([math.log(r.entry.median / b) for r, _, b in usable])
    spoken = np.array([(r.entry.high - r.entry.low) / (4 * r.entry.median) for r, _, _ in usable])
    points = (raw - centre) / spread
    best: tuple[float, Shape, dict[str, Any]] | None = None
    few = CAUTIOUS if other is None else MOVED
    shapes = [few] if len(usable) < FEW else [replace(few, bend=b, length=k, noise=n) for b, k, n in GRID]
    for shape in shapes:
        solved = _solve(points, kinds, group, target, spoken, shape)
        score = float(np.mean(np.log(solved["errors"]) + (solved["residuals"] / solved["errors"]) ** 2 / 2))
        if best is None or score < best[0]:
            best = score, shape, solved
    assert best is not None
    counts = {k: kinds.count(k) for k in dict.fromkeys(kinds)}
    return FittedModel(kinds, points, centre, spread, best[1], base, group=group, counts=counts, **best[2])


def _solve(
    points: Floats,
    kinds: Sequence[str],
    group: NDArray[np.int64],
    target: Floats,
    spoken: Floats,
    shape: Shape,
) -> dict[str, Any]:
    """Return the solution of the system, and for each group what leaving it out changes."""
    system = _similarity(points, kinds, points, kinds, shape)
    inverse = np.linalg.inv(system + np.diag(shape.noise**2 + spoken**2))
    weights = inverse @ target
    residuals, errors = np.empty_like(target), np.empty_like(target)
    without = np.empty((len(target), int(group.max()) + 1))
    order = np.argsort(group, kind="stable")
    for name, members in enumerate(np.split(order, np.flatnonzero(np.diff(group[order])) + 1)):
        block = np.linalg.inv(inverse[np.ix_(members, members)])
        residuals[members] = block @ weights[members]
        errors[members] = np.sqrt(np.diag(block))
        without[:, name] = inverse[:, members] @ residuals[members]
    return {
        "weights": weights,
        "inverse": inverse,
        "without": without,
        "residuals": residuals,
        "errors": errors,
    }


def _similarity(
    left: Floats, left_kinds: Sequence[str], right: Floats, right_kinds: Sequence[str], shape: Shape
) -> Floats:
    inner = left @ right.T
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * inner
    same = np.array(left_kinds, dtype=object)[:, None] == np.array(right_kinds, dtype=object)[None, :]
    distance = np.sqrt(3 * np.maximum(squares, 0)) / shape.length
    bent = shape.bend**2 * (1 + distance) * np.exp(-distance)
    own = shape.own_offset**2 + shape.own_slope**2 * inner + bent
    found: Floats = shape.offset**2 + shape.slope**2 * inner + same * own
    return found


def _roofline(_: Kernel, seen: Features) -> float | None:
    return seen.prior


def _of(other: FittedModel) -> Callable[[Kernel, Features], float | None]:
    """Return another device's predictions as the mean; a kind it lacks has none."""

    def base(kernel: Kernel, _: Features) -> float | None:
        found = other.predict(kernel)
        return None if found is None else found.median

    return base
