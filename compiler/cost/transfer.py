"""What whole programs take on a device, from few measurements: times that add up, other devices, residuals.

What is known of a program before it is timed are amounts of parts, which may be counted in more than one
way (`views`: with or without what a runtime removes, by operator, by kernel, or as one predicted sum),
numbers that its time may depend on otherwise (`details`), and its times on other devices (`proxies`).

1. Means. Each view alone, with the proxies as further parts, and the proxies alone is fitted as times that
   add up (`additive`); so is a power law of the proxies, `log t = a + Σ b_d log p_d` shrunk to b_d = 1/d.
2. Each mean is judged by cross-validation, by the mean absolute error of log t. What has more numbers to fit
   than the simplest mean must be better than that by a standard error of the difference, which is added to
   its error: readings too few to tell, or from other families of programs, decide for the simple. Logarithms
   are averaged with weights `(error / least error)^-n`.
3. A Gaussian process (`process`) on details, mean and proxies takes what the mean leaves, winsorised so that
   an odd reading is no bump; it is kept in the share (0, 1/2 or 1) that cross-validates best, judged so too.
4. The interval is the quantile of the cross-validated errors, Student's t where they are too few for one.

A rank correlation bounds no budget: what is chosen by such predictions is measured before it may win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from compiler.cost.additive import MEDIAN_TO_DEVIATION, fit_additive
from compiler.cost.fitted import PERCENT
from compiler.cost.process import Process, Shape, fit_process

Floats = NDArray[np.float64]
K = TypeVar("K")
Predict = Callable[["Programs"], Floats]  # logarithms of times

FOLDS = 10
SHARES = (0.0, 0.5, 1.0)
WINSOR = 2.5  # deviations beyond which a residual counts as one of that size
LEAST_WEIGHT = 0.02  # of a mean, below which it is left out
RIDGE = 0.05  # of the power law's exponents, against a logarithm's variance
SHAPES = tuple(
    Shape(s, b, length, n, 0.3) for s, b, length, n in product((0.1, 0.5), (0.3, 1.0), (1.0, 3.0), (0.5, 1.0))
)


@dataclass(frozen=True)
class Programs:
    """What is known of n programs: `views` of amounts [n, p], `details` [n, q], `proxies` [n, d]."""

    views: Mapping[str, Floats]
    details: Floats
    proxies: Floats

    def __len__(self) -> int:
        """Return how many programs there are."""
        return len(self.details)

    def __getitem__(self, rows: NDArray[np.int64]) -> Programs:
        """Return some of the programs."""
        views = {name: amounts[rows] for name, amounts in self.views.items()}
        return Programs(views, self.details[rows], self.proxies[rows])


def programs(
    views: Mapping[str, Floats], details: Floats | None = None, proxies: Floats | None = None
) -> Programs:
    """Return programs, without details or proxies where there are none; ValueError for unequal counts."""
    count = len(next(iter(views.values()))) if views else 0 if proxies is None else len(proxies)
    none = np.zeros((count, 0))
    made = Programs(views, none if details is None else details, none if proxies is None else proxies)
    if any(len(a) != count for a in (*views.values(), made.details, made.proxies)) or not count:
        raise ValueError("views, details and proxies are of different programs, or of none")
    return made


@dataclass(frozen=True)
class TransferModel:
    """A model of whole programs on one device; make one with `fit_transfer`.

    `weights` says how far each mean is trusted, `share` how much of the residual process is kept; `error`
    is the mean absolute error of logarithms when left out, `reach` half the interval's width in logarithms.
    """

    means: tuple[Predict, ...]
    weights: Mapping[str, float]
    process: Process | None
    share: float
    error: float
    reach: float

    def predict(self, given: Programs) -> Floats:
        """Return the predicted times of programs."""
        mean = _mean(self.means, tuple(self.weights.values()), given)
        return np.asarray(np.exp(mean + _residual(self.process, self.share, given, mean)))

    def interval(self, given: Programs) -> tuple[Floats, Floats]:
        """Return bounds that hold the times of 90 of 100 programs like those it was fitted to."""
        middle = self.predict(given)
        return middle * math.exp(-self.reach), middle * math.exp(self.reach)


def fit_transfer(given: Programs, times: Floats, groups: Sequence[str] = ()) -> TransferModel:
    """Return the model of programs that were measured; raises ValueError for fewer than three.

    `groups` names each program's family, where those to be predicted are of other families: programs of
    one are left out together.
    """
    if len(given) < 3 or len(times) != len(given) or not (times > 0).all():
        raise ValueError(f"a model needs 3 positive times of as many programs, there are {len(times)}")
    folds = list(_folds(len(given), groups))
    logs = np.log(times)
    fits = _fits(given)
    left_out = {name: _left_out(fit.fit, given, times, folds) for name, fit in fits.items()}
    sizes = {name: fit.numbers for name, fit in fits.items()}
    weights = _weights(_judged({name: np.abs(f - logs) for name, f in left_out.items()}, sizes), len(given))
    shares = tuple(weights.values())
    mean = sum(w * left_out[name] for name, w in weights.items())
    assert isinstance(mean, np.ndarray)
    corrections = np.zeros(len(given))
    for train, held in folds:
        corrections[held] = _residual(
            _process(given[train], logs[train] - mean[train], mean[train]), 1.0, given[held], mean[held]
        )
    judged = _judged(
        {s: np.abs(mean + s * corrections - logs) for s in SHARES}, {s: int(s > 0) for s in SHARES}
    )
    share = min(judged, key=lambda s: judged[s])
    means = tuple(fits[name].fit(given, times) for name in weights)
    final = _mean(means, shares, given)
    process = _process(given, logs - mean, final) if share else None
    residuals = logs - mean - share * corrections
    return TransferModel(means, weights, process, share, float(np.abs(residuals).mean()), _reach(residuals))


@dataclass(frozen=True)
class _Fit:
    """How to fit a mean, and how many numbers that fits."""

    numbers: int
    fit: Callable[[Programs, Floats], Predict]


def _fits(given: Programs) -> dict[str, _Fit]:
    """Return how to fit each mean, by name."""
    elsewhere = given.proxies.shape[1] > 0

    def additive(view: str | None, proxies: bool) -> _Fit:
        def amounts(own: Programs) -> Floats:
            parts = [own.views[view]] if view is not None else []
            return np.concatenate([*parts, *([own.proxies] if proxies else [])], 1)

        def fit(own: Programs, times: Floats) -> Predict:
            model = fit_additive(amounts(own), times)
            return lambda other: np.asarray(np.log(model.predict(amounts(other))))

        return _Fit(amounts(given).shape[1], fit)

    found = {name: additive(name, False) for name in given.views}
    if elsewhere:
        found |= {f"{name} + other devices": additive(name, True) for name in given.views}
        found |= {
            "other devices": additive(None, True),
            "power of other devices": _Fit(given.proxies.shape[1], _fit_power),
        }
    return found


def _fit_power(own: Programs, times: Floats) -> Predict:
    """Return the ridge regression of log t on the logarithms of proxies, shrunk to their geometric mean."""
    logs = np.log(own.proxies)
    centre, count = logs.mean(0), logs.shape[1]
    rest = np.log(times) - logs.mean(1)
    system = (logs - centre).T @ (logs - centre) + RIDGE * np.eye(count)
    slopes = np.linalg.solve(system, (logs - centre).T @ (rest - rest.mean())) + 1 / count
    middle = float(np.median(np.log(times) - (logs - centre) @ slopes))
    return lambda other: np.asarray(middle + (np.log(other.proxies) - centre) @ slopes)


def _folds(count: int, groups: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield which programs to fit and which to hold out: each once, in at most `FOLDS` parts."""
    names = np.array(groups if len(set(groups)) > 1 else [str(i) for i in range(count)])
    order = np.random.default_rng(0).permutation(np.unique(names))
    for part in np.array_split(order, min(FOLDS, len(order))):
        held = np.isin(names, part)
        yield np.flatnonzero(~held), np.flatnonzero(held)


def _left_out(
    fit: Callable[[Programs, Floats], Predict],
    given: Programs,
    times: Floats,
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Floats:
    found = np.empty(len(given))
    for train, held in folds:
        found[held] = fit(given[train], times[train])(given[held])
    return found


def _judged(errors: Mapping[K, Floats], sizes: Mapping[K, int]) -> dict[K, float]:
    """Return mean errors, and with what is larger than the smallest its standard error against that."""
    small = min(sizes.values())
    plain = min((errors[k] for k in errors if sizes[k] == small), key=lambda e: float(e.mean()))
    doubt = {k: float(np.std(e - plain, ddof=1)) / math.sqrt(len(e)) for k, e in errors.items()}
    return {k: float(e.mean()) + (doubt[k] if sizes[k] > small else 0.0) for k, e in errors.items()}


def _weights(errors: Mapping[str, float], count: int) -> dict[str, float]:
    least = max(min(errors.values()), 1e-6)
    raw = {name: (max(error, least) / least) ** -count for name, error in errors.items()}
    kept = {name: w for name, w in raw.items() if w >= LEAST_WEIGHT * max(raw.values())}
    return {name: w / sum(kept.values()) for name, w in kept.items()}


def _mean(means: tuple[Predict, ...], weights: tuple[float, ...], given: Programs) -> Floats:
    found: Floats = np.sum([w * mean(given) for w, mean in zip(weights, means, strict=True)], 0)
    return found


def _points(given: Programs, mean: Floats) -> Floats:
    return np.concatenate([given.details, np.log(given.proxies), mean[:, None]], 1)


def _process(given: Programs, residuals: Floats, mean: Floats) -> Process:
    middle = float(np.median(residuals))
    spread = MEDIAN_TO_DEVIATION * float(np.median(np.abs(residuals - middle)))
    bounded = np.clip(residuals, middle - WINSOR * spread, middle + WINSOR * spread)
    return fit_process(_points(given, mean), bounded, SHAPES)


def _residual(process: Process | None, share: float, given: Programs, mean: Floats) -> Floats:
    if process is None or not share:
        return np.zeros(len(given))
    return share * process.predict(_points(given, mean))[0]


def _reach(residuals: Floats) -> float:
    """Return the quantile of absolute residuals that `PERCENT` of new ones are within."""
    count = len(residuals)
    rank = math.ceil(PERCENT / 100 * (count + 1))
    if rank <= count:
        return float(np.sort(np.abs(residuals))[rank - 1])
    return float(stdtrit(count - 1, 0.5 + PERCENT / 200) * np.sqrt(np.mean(residuals**2)))
