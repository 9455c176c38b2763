"""The efficiency gap: how much faster each variant would be if its kernels ran at the roofline.

Two points for each variant at the height of its cost, its ideal and its measured latency. On the
logarithmic axis their distance is log(1 / C), C the efficiency: equal gaps are equal factors (Lavin, 2024).
A method that removes operations and widens the gap buys less than it promises.
"""

from __future__ import annotations

from edgewright.search_report.data import ReportData, Variant
from edgewright.search_report.frame import NARROW, Frame, Labels, legend
from edgewright.search_report.numbers import number
from edgewright.search_report.scales import Scale, log
from edgewright.search_report.section import Section, figure, folded, table
from edgewright.search_report.svg import diamond, dot, line, mark
from edgewright.search_report.words import bounded, cost_axis, latency_axis, sign

LEGEND = (
    ("winner", "chosen, as measured"),
    ("fits", "within budget, as measured"),
    ("over", "over budget, as measured"),
    ("ideal", "the same variant at the roofline"),
)


def gap(data: ReportData) -> Section:
    """Return the section."""
    title, shown = "Efficiency gap", _shown(data)
    if not shown:
        return Section("gap", title, "No variant has both a cost and an ideal latency.", "")
    chosen = data.winner.efficiency
    own = "" if chosen is None else f"The chosen variant reaches {100 * chosen:.0f}% of its roofline. "
    says = (
        f"{own}A longer line is more speed left unused: fewer operations help only where the line does not "
        f"grow. The roofline is drawn from {data.machine}."
    )
    body = figure(lambda width: _draw(data, width), legend(*LEGEND)) + folded(
        "The same as a table", _table(data)
    )
    return Section("gap", title, says, body)


def _shown(data: ReportData) -> list[Variant]:
    return [v for v in data.priced if v.ideal]


def _draw(data: ReportData, width: float) -> str:
    frame = Frame(width, 400 if width > NARROW else 350)
    shown = _shown(data)
    x = log([t for v in shown for t in (v.ideal or 0.0, v.latency.value)], frame.x0, frame.x1)
    y = log([v.cost.value for v in shown if v.cost], frame.y0, frame.y1, zero=True)
    labels = Labels(frame)
    for v in shown:
        py = y.at(v.cost.value if v.cost else 0)
        labels.keep(x.at(v.latency.value), py, 9 if v.chosen else 5)
        labels.keep_line(x.at(v.ideal or 0.0), py, x.at(v.latency.value), py)
    named = [v for v in shown if v.front or v.within]
    pairs = [_pair(data, v, x, y) for v in sorted(shown, key=lambda v: v.chosen)]
    names = [_name(labels, v, x, y) for v in sorted(named, key=lambda v: not v.chosen)]
    axes = frame.x_axis(x, f"{latency_axis(data)} (log)") + frame.y_axis(y, cost_axis(data))
    return frame.picture(
        f"Ideal and measured latency of {len(shown)} variants on a logarithmic axis.", axes, *pairs, *names
    )


def _pair(data: ReportData, v: Variant, x: Scale, y: Scale) -> str:
    assert v.cost is not None
    assert v.ideal is not None
    assert v.efficiency is not None
    px, py, kind = x.at(v.latency.value), y.at(v.cost.value), sign(v)
    told = (
        f"{v.name}: {100 * v.efficiency:.0f}% of its roofline\n"
        f"ideal {number(v.ideal)}, measured {bounded(v.latency)} {data.unit}"
    )
    return mark(
        told,
        line(x.at(v.ideal), py, px, py, f"gap {kind}"),
        dot(x.at(v.ideal), py, "ideal", 3.5),
        diamond(px, py, kind) if v.chosen else dot(px, py, kind),
    )


def _name(labels: Labels, v: Variant, x: Scale, y: Scale) -> str:
    assert v.cost is not None
    assert v.efficiency is not None
    text = f"{v.name}, {100 * v.efficiency:.0f}%"
    return labels.place(x.at(v.latency.value), y.at(v.cost.value), text, v.chosen)


def _table(data: ReportData) -> str:
    columns = ("variant", f"ideal, {data.unit}", f"measured, {data.unit}", "efficiency")
    rows = [
        (v.name, number(v.ideal or 0.0), bounded(v.latency), f"{100 * (v.efficiency or 0.0):.0f}%")
        for v in _shown(data)
    ]
    return table("Ideal and measured latency", columns, rows, 3)
