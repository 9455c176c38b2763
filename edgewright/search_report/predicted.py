"""Predicted latency against measured latency, with the line on which they agree."""

from __future__ import annotations

from collections.abc import Sequence

from edgewright.search_report.data import ReportData, Variant
from edgewright.search_report.frame import NARROW, Frame, Labels, legend
from edgewright.search_report.numbers import number
from edgewright.search_report.scales import Scale, linear
from edgewright.search_report.section import Section, figure, folded, table
from edgewright.search_report.svg import diamond, dot, line, mark
from edgewright.search_report.words import bounded, latency_axis, sign

LEGEND = (
    ("fits", "proposed: predicted before it was measured"),
    ("winner", "chosen"),
    ("known", "the model was fitted to it"),
    ("agree", "predicted = measured"),
)


def predicted(data: ReportData) -> Section:
    """Return the section."""
    title = "Predicted against measured"
    if all(_expected(v) is None for v in data.variants):
        return Section(
            "predicted", title, "Nothing had to be predicted: the float model meets the budget.", ""
        )
    body = figure(lambda width: _draw(data, width), legend(*LEGEND)) + folded(
        "The same as a table", _table(data)
    )
    return Section("predicted", title, f"{_errors(data.variants)} Bars are 95% intervals.", body)


def error(v: Variant) -> float | None:
    """Return how far a prediction was off, over what was measured; None where there was none."""
    return None if v.predicted is None else (v.predicted - v.latency.value) / v.latency.value


def _errors(variants: Sequence[Variant]) -> str:
    errors = [abs(e) for v in variants if (e := error(v)) is not None]
    if not errors:
        return "No variant was predicted before it was measured: the first run decided."
    several = len(errors) > 1
    mean = f"{100 * sum(errors) / len(errors):.1f}%"
    return (
        f"{len(errors)} variant{'s were' if several else ' was'} predicted before being measured: off "
        f"by {mean}"
        + (f" on average, by {100 * max(errors):.1f}% at worst." if several else ".")
        + " Points below the line ran faster than predicted."
    )


def _draw(data: ReportData, width: float) -> str:
    frame = Frame(width, 380 if width > NARROW else 340)
    shown = [v for v in data.variants if _expected(v) is not None]
    values = [b for v in shown for b in (_expected(v) or 0.0, v.latency.low, v.latency.high)]
    x, y = linear(values, frame.x0, frame.x1), linear(values, frame.y0, frame.y1)
    labels = Labels(frame)
    labels.keep_line(x.at(x.low), y.at(x.low), x.at(x.high), y.at(x.high))
    for v in shown:
        labels.keep(x.at(_expected(v) or 0.0), y.at(v.latency.value), 9 if v.chosen else 5)
    points = [_point(data, v, x, y) for v in sorted(shown, key=lambda v: (v.chosen, v.predicted is not None))]
    names = [
        labels.place(x.at(v.predicted), y.at(v.latency.value), v.name, v.chosen)
        for v in sorted(shown, key=lambda v: not v.chosen)
        if v.predicted is not None
    ]
    agree = line(x.at(x.low), y.at(x.low), x.at(x.high), y.at(x.high), "agree")
    axes = frame.x_axis(x, f"predicted {latency_axis(data)}") + frame.y_axis(
        y, f"measured {latency_axis(data)}"
    )
    return frame.picture(
        f"Predicted against measured latency of {len(shown)} variants.", axes, agree, *points, *names
    )


def _expected(v: Variant) -> float | None:
    return v.fitted if v.predicted is None else v.predicted


def _point(data: ReportData, v: Variant, x: Scale, y: Scale) -> str:
    expected = _expected(v) or 0.0
    px, py = x.at(expected), y.at(v.latency.value)
    kind = "known" if v.predicted is None and not v.chosen else sign(v)
    how = "fitted" if v.predicted is None else "predicted"
    told = f"{v.name}\n{how} {number(expected)}, measured {bounded(v.latency)} {data.unit}"
    bar = line(px, y.at(v.latency.low), px, y.at(v.latency.high), f"bar {kind}")
    return mark(told, bar, diamond(px, py, kind) if v.chosen else dot(px, py, kind))


def _table(data: ReportData) -> str:
    columns = ("variant", "predicted", "fitted afterwards", f"measured, {data.unit}", "error")
    rows = [
        (v.name, *map(_text, (v.predicted, v.fitted)), bounded(v.latency), _percent(error(v)))
        for v in data.variants
    ]
    return table("Predicted and measured latencies", columns, rows, 4)


def _text(value: float | None) -> str:
    return "–" if value is None else number(value)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f}%".replace("-", "−")
