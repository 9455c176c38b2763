r"""A few options measured alone correct what is expected of all others of their kind.

What is expected of an option, by a roofline or by another device's measurements, errs by much the same factor
for all options of one method: the prior's ratio of bandwidth to arithmetic is off, or the other device's is
another. With expected changes x and measured changes y of a method's options that were measured alone,

    :math:`a = \frac{\sum x y + \overline{x^2}}{\sum x^2 + \overline{x^2}}`

is the least-squares line through the origin with one made-up measurement that agrees with the expectation, so
that none measured leaves it as it is. It is held within 1/`MOST` and `MOST`. A factor says what to measure
next and never takes a measurement's place: networks picked by a predictor carried over to another device from
ten samples missed their budgets by up to 23% (HELP, arXiv 2106.08630).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST = 4.0


def factor(pairs: Sequence[tuple[float, float]]) -> float:
    """Return by what to multiply the changes expected of options, from pairs (expected, measured)."""
    expected, measured = np.array(pairs, dtype=float).reshape(-1, 2).T
    square = float(expected @ expected)
    if square == 0.0:
        return 1.0
    prior = square / len(expected)
    return float(np.clip((expected @ measured + prior) / (square + prior), 1 / MOST, MOST))
