"""Which of two programs is faster, from rounds that were measured interleaved: a verdict, or none.

Round i of one stands beside round i of the other, so that what both share cancels in their ratio
(`devices.statistics.ratio`); rounds that were throttled or disturbed take their partner out with them.
With the ratio's 95% interval and `least`, the smallest difference that matters, the second is

    the same    where the whole interval lies within `least` of 1
    slower      where the interval lies above 1 and its middle is above 1 + least
    faster      where it lies below 1 and its middle is below 1 / (1 + least)

and in every other case, as with too few clean pairs, nothing is said: unstable, measure again. Two
processes of one program differ by a percent or so, for reasons of memory layout that no repetition
within a process averages out: that is what `least` is for, and why a narrow interval that only just
misses 1 is not yet a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from compiler.records import Measurement
from devices.statistics import Ratio, ratio

LEAST = 0.02
LEAST_PAIRS = 5


class Verdict(StrEnum):
    """What the second program is, beside the first."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    UNSTABLE = "unstable"


@dataclass(frozen=True)
class Comparison:
    """A verdict, the ratio it rests on (second over first; None without a clean pair), and why."""

    verdict: Verdict
    ratio: Ratio | None
    reason: str


def compare(first: Measurement, second: Measurement, least: float = LEAST) -> Comparison:
    """Return what `second` is beside `first`; both must come from one run, of one metric.

    Raises ValueError for two metrics, whose kinds never mix.
    """
    if first.metric is not second.metric:
        raise ValueError(f"{first.metric} and {second.metric} do not compare")
    made = min(len(first.rounds), len(second.rounds))
    try:
        found = ratio(second.rounds, first.rounds)
    except ValueError as error:
        return Comparison(Verdict.UNSTABLE, None, str(error))
    if found.rounds < LEAST_PAIRS:
        reason = f"{found.rounds} of {made} pairs of rounds are clean, {LEAST_PAIRS} needed"
        return Comparison(Verdict.UNSTABLE, found, reason)
    return Comparison(_verdict(found, least), found, f"{found.rounds} of {made} pairs of rounds are clean")


def _verdict(found: Ratio, least: float) -> Verdict:
    most = 1 + least
    if 1 / most <= found.low and found.high <= most:
        return Verdict.SAME
    if found.low > 1 and found.value > most:
        return Verdict.SLOWER
    if found.high < 1 and found.value < 1 / most:
        return Verdict.FASTER
    return Verdict.UNSTABLE
