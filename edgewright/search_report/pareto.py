"""Cost against latency: every variant that was measured, the front, the budget and the winner."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edgewright.search_report.data import ReportData, Variant
from edgewright.search_report.frame import NARROW, Frame, Labels, legend
from edgewright.search_report.numbers import large
from edgewright.search_report.scales import Scale, linear, log
from edgewright.search_report.section import Section, figure, folded, table
from edgewright.search_report.svg import diamond, dot, element, line, mark
from edgewright.search_report.words import bounded, cost_axis, latency, latency_axis, sign, tip, units

LEGEND = (
    ("winner", "chosen"),
    ("fits", "within budget"),
    ("over", "over budget"),
    ("front-line", "front: nothing measured is both faster and cheaper"),
    ("budget-line", "budget"),
)


def pareto(data: ReportData) -> Section:
    """Return the section."""
    within, front = sum(v.within for v in data.variants), sum(v.front for v in data.variants)
    says = (
        f"{len(data.variants)} variants were measured, {within} of them within the budget of "
        f"{latency(data, data.limit)}; {front} are on the front. Further left is faster, lower is closer to "
        f"the original model. Bars are 95% intervals."
    )
    body = figure(lambda width: _draw(data, width), legend(*LEGEND)) + folded(
        "The same as a table", _table(data)
    )
    return Section("pareto", "Cost against latency", says, body)


def _draw(data: ReportData, width: float) -> str:
    frame = Frame(width, 420 if width > NARROW else 360)
    known = data.priced
    times = [v for d in known for v in (d.latency.low, d.latency.high)]
    x = linear([*times, data.limit], frame.x0, frame.x1)
    costs = [v for d in known if d.cost for v in (d.cost.value, d.cost.low, d.cost.high)]
    y = log(costs, frame.y0, frame.y1, zero=True)
    labels = Labels(frame)
    labels.keep_line(x.at(data.limit), frame.y0, x.at(data.limit), frame.y1)
    for v in known:
        py = y.at(v.cost.value if v.cost else 0)
        labels.keep_line(x.at(v.latency.low), py, x.at(v.latency.high), py)
        labels.keep(x.at(v.latency.value), py, 9 if v.chosen else 5)
    budget = line(x.at(data.limit), frame.y1, x.at(data.limit), frame.y0, "budget-line")
    named = labels.place(x.at(data.limit), frame.y1 + 8, f"budget {data.budget}", True)
    corners = _corners(known, x, y)
    for (ax, ay), (bx, by) in pairwise(corners):
        labels.keep_line(ax, ay, bx, by)
    points = [_point(data, v, x, y) for v in sorted(known, key=lambda v: v.chosen)]
    named_ones = sorted((v for v in known if v.front or v.within), key=_importance)
    names = [_name(labels, v, x, y) for v in named_ones]
    axes = frame.x_axis(x, latency_axis(data)) + frame.y_axis(y, cost_axis(data))
    return frame.picture(
        f"Cost against latency of {len(known)} variants; the chosen one is {data.winner.name}.",
        *(axes, budget, _front(corners), *points, named, *names),
    )


def _corners(known: Sequence[Variant], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Return the corners of the front's steps: a budget buys the point on its left."""
    front = sorted((v for v in known if v.front and v.cost), key=lambda v: v.latency.value)
    corners: list[tuple[float, float]] = []
    for v in front:
        px, py = x.at(v.latency.value), y.at(v.cost.value if v.cost else 0)
        corners += [(px, corners[-1][1])] if corners else []
        corners.append((px, py))
    return corners


def _front(corners: Sequence[tuple[float, float]]) -> str:
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
    return element("polyline", points=points, class_="front-line") if len(corners) > 1 else ""


def _point(data: ReportData, v: Variant, x: Scale, y: Scale) -> str:
    assert v.cost is not None
    px, py = x.at(v.latency.value), y.at(v.cost.value)
    kind = sign(v)
    return mark(
        tip(data, v),
        line(x.at(v.latency.low), py, x.at(v.latency.high), py, f"bar {kind}"),
        line(px, y.at(v.cost.low), px, y.at(v.cost.high), f"bar {kind}"),
        diamond(px, py, kind) if v.chosen else dot(px, py, kind),
    )


def _name(labels: Labels, v: Variant, x: Scale, y: Scale) -> str:
    assert v.cost is not None
    return labels.place(x.at(v.latency.value), y.at(v.cost.value), v.name, v.chosen)


def _importance(v: Variant) -> tuple[bool, bool, float]:
    return not v.chosen, not v.front, v.latency.value


def _table(data: ReportData) -> str:
    columns = ("variant", "verdict", "latency", "cost", "program")
    rows = [
        (v.name, _verdict(v), bounded(v.latency), bounded(v.cost), f"{large(v.bytes)}B")
        for v in data.variants
    ]
    return table(f"Every variant that was measured; {units(data)}", columns, rows, 3)


def _verdict(v: Variant) -> str:
    verdict = "chosen" if v.chosen else "within budget" if v.within else "over budget"
    return f"{verdict}, front" if v.front and not v.chosen else verdict
