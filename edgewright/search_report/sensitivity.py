"""What each decision costs alone, with the interval of its bootstrap, the dearest first."""

from __future__ import annotations

from edgewright.search_report.data import Departure, ReportData
from edgewright.search_report.frame import NARROW, Frame, legend
from edgewright.search_report.scales import Scale, log
from edgewright.search_report.section import Section, figure, folded, table
from edgewright.search_report.svg import FONT, dot, label, line, mark, shortened
from edgewright.search_report.words import bounded, cost_axis, units

MOST = 40  # rows of the picture; the table holds all

LEGEND = (("taken", "in the plan"), ("left", "not in the plan"))


def sensitivity(data: ReportData) -> Section:
    """Return the section."""
    title = "Sensitivity"
    if not data.departures:
        return Section("sensitivity", title, "No decision was priced alone.", "")
    says = (
        f"What the outputs of the model move by where one decision is taken and all else kept, for "
        f"{len(data.departures)} decisions"
        + (f", of which the {MOST} dearest are drawn" if len(data.departures) > MOST else "")
        + ". Bars are 95% intervals of a bootstrap over samples; where two overlap, their order is not "
        "certain."
    )
    body = figure(lambda width: _draw(data, width), legend(*LEGEND)) + folded(
        "The same as a table", _table(data)
    )
    return Section("sensitivity", title, says, body)


def _draw(data: ReportData, width: float) -> str:
    shown, beside = data.departures[:MOST], width > NARROW
    row = 24.0 if beside else 38.0
    left = 320.0 if beside else 16.0
    frame = Frame(width, 30 + row * len(shown) + 44, left=left, top=14)
    x = log(
        [v for d in shown for v in (d.cost.value, d.cost.low, d.cost.high)], frame.x0, frame.x1, _zero(shown)
    )
    places = [frame.y1 + row * (i + (0.5 if beside else 0.75)) for i in range(len(shown))]
    rows = [_row(data, d, x, y, frame) for d, y in zip(shown, places, strict=True)]
    return frame.picture(
        f"Cost of {len(shown)} decisions, each alone.", frame.x_axis(x, f"{cost_axis(data)} (log)"), *rows
    )


def _zero(shown: tuple[Departure, ...]) -> bool:
    return any(d.cost.low <= 0 for d in shown)


def _row(data: ReportData, d: Departure, x: Scale, y: float, frame: Frame) -> str:
    kind = "taken" if d.taken else "left"
    told = f"{d.label}\ncost {bounded(d.cost)}\nlatency {bounded(d.latency)} {data.unit}"
    if frame.width > NARROW:
        name = label(frame.x0 - 12, y + 4, shortened(d.label, frame.x0 - 20), "end")
    else:
        name = label(frame.x0, y - FONT, shortened(d.label, frame.width - 24))
    bar = line(x.at(d.cost.low), y, x.at(d.cost.high), y, f"bar thick {kind}")
    return name + mark(told, bar, dot(x.at(d.cost.value), y, kind))


def _table(data: ReportData) -> str:
    columns = ("site", "method", "option", "in the plan", "cost alone", "latency alone")
    rows = [
        (d.site, d.method, d.option, "yes" if d.taken else "no", bounded(d.cost), bounded(d.latency))
        for d in data.departures
    ]
    return table(f"Decisions taken alone; {units(data)}", columns, rows, 2)
