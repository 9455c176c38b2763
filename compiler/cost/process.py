"""Gaussian process regression on a few numbers of each point, and what it says of points left out.

    k(x, x') = offset² + slope² <x, x'> / q + bend² matern(|x - x'| / (length √q)),
    matern(d) = (1 + √3 d) exp(-√3 d),   q numbers a point, each scaled to a standard deviation of 1

One positive definite system. With A = (K + noise)⁻¹ and a = A y, leaving point i out changes the prediction
there by `a_i / A_ii`, with variance `1 / A_ii` (Rasmussen and Williams, 2006, 5.4.2), so that hyperparameters
are chosen by the density of points left out at no further cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Standard deviations of the parts and of the noise, over that of the values, and a length."""

    slope: float
    bend: float
    length: float
    noise: float
    offset: float = 0.5


GRID = tuple(
    Shape(slope, bend, length, noise)
    for slope, bend, length, noise in product((0.1, 1.0), (0.3, 1.0), (0.7, 2.0), (0.1, 0.3, 1.0))
)


@dataclass(frozen=True)
class Process:
    """A fitted process; `residuals` and `errors` are those of the points when each is left out."""

    shape: Shape
    points: Floats
    centre: Floats
    spread: Floats
    scale: float
    middle: float
    weights: Floats
    inverse: Floats
    residuals: Floats
    errors: Floats

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Return means and standard deviations at points of shape [n, q], those of the noise included."""
        scaled = (points - self.centre) / self.spread
        near = _similarity(scaled, self.points, self.shape)
        own = self.shape.offset**2 + self.shape.slope**2 * (scaled**2).mean(1) + self.shape.bend**2
        left = own - np.einsum("ij,jk,ik->i", near, self.inverse, near, optimize=True)
        error = np.sqrt(np.maximum(left, 0) + self.shape.noise**2)
        return self.middle + self.scale * (near @ self.weights), self.scale * error


def fit_process(points: Floats, values: Floats, shapes: Iterable[Shape] = GRID) -> Process:
    """Return the process through values at points of shape [n, q], of the shape that predicts best.

    Raises ValueError for fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(f"a process needs at least 2 points, there are {len(points)}")
    centre, spread = points.mean(0), points.std(0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    scaled = (points - centre) / spread
    middle, scale = float(values.mean()), float(values.std()) or 1.0
    target = (values - middle) / scale
    best: tuple[float, Process] | None = None
    for shape in shapes:
        system = _similarity(scaled, scaled, shape) + np.eye(len(scaled)) * shape.noise**2
        inverse = np.asarray(np.linalg.inv(system), dtype=np.float64)
        weights = inverse @ target
        left = np.diag(inverse)
        residuals, errors = weights / left, 1 / np.sqrt(left)
        score = float(np.mean(np.log(errors) + (residuals / errors) ** 2 / 2))
        if best is None or score < best[0]:
            residuals, errors = scale * residuals, scale * errors
            best = (
                score,
                Process(shape, scaled, centre, spread, scale, middle, weights, inverse, residuals, errors),
            )
    assert best is not None, "no shape was given"
    return best[1]


def _similarity(left: Floats, right: Floats, shape: Shape) -> Floats:
    inner = left @ right.T / left.shape[1]
    squares = (left**2).mean(1)[:, None] + (right**2).mean(1)[None, :] - 2 * inner
    distance = np.sqrt(3 * np.maximum(squares, 0)) / shape.length
    bent: Floats = shape.bend**2 * (1 + distance) * np.exp(-distance)
    found: Floats = shape.offset**2 + shape.slope**2 * inner + bent
    return found
