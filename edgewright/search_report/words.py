"""Figures of a report in words, with their units and bounds."""

from __future__ import annotations

from edgewright.search_report.data import Interval, ReportData, Variant
from edgewright.search_report.numbers import number


def latency(data: ReportData, value: float) -> str:
    """Return a latency with its unit: `0.66x`, `4.91 ms`."""
    return f"{number(value)}x" if data.unit.startswith("×") else f"{number(value)} {data.unit}"


def bounded(interval: Interval | None) -> str:
    """Return a value with its 95% interval, a dash where there is none."""
    if interval is None:
        return "–"
    if interval.low == interval.high:
        return number(interval.value)
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"


def tip(data: ReportData, variant: Variant) -> str:
    """Return what is told of a variant that is pointed at."""
    verdict = "chosen" if variant.chosen else "within budget" if variant.within else "over budget"
    return (
        f"{variant.name}: {verdict}\nlatency {bounded(variant.latency)} {data.unit}\n"
        f"cost {bounded(variant.cost)}"
    )


def sign(variant: Variant) -> str:
    """Return the class of a variant's sign."""
    return "winner" if variant.chosen else "fits" if variant.within else "over"


def units(data: ReportData) -> str:
    """Return what a table's latencies and costs are in."""
    return f"latency in {data.unit.replace('×', 'multiples of the')}; cost: {data.cost_unit}"


def cost_axis(data: ReportData) -> str:
    """Return the name of an axis of costs."""
    return f"cost: {data.cost_unit}"


def latency_axis(data: ReportData) -> str:
    """Return the name of an axis of latencies."""
    return f"latency, {data.unit}"
