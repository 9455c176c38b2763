"""The page: everything in one file that needs nothing else, no network and no JavaScript.

The pictures are SVG in the page, each beside its table; the data stand in it once more as JSON. The
script only shows what a browser tells by itself anyway, sooner and by touch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import Any

from edgewright.search_report.data import ReportData
from edgewright.search_report.gap import gap
from edgewright.search_report.numbers import number
from edgewright.search_report.pareto import pareto
from edgewright.search_report.plan_table import plan_table
from edgewright.search_report.predicted import predicted
from edgewright.search_report.section import Section
from edgewright.search_report.sensitivity import sensitivity
from edgewright.search_report.svg import element
from edgewright.search_report.waterline import waterline
from edgewright.search_report.words import latency

SCHEMA = "edgewright.search_report/1"
SECTIONS = (pareto, plan_table, predicted, gap, waterline, sensitivity)


def page(data: ReportData) -> str:
    """Return the whole report as one HTML document."""
    sections = [make(data) for make in SECTIONS]
    title = f"{data.model}: search for {data.budget}"
    return (
        "<!DOCTYPE html>\n"
        + '<html lang="en"><head><meta charset="utf-8">'
        + '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + '<meta name="color-scheme" content="light dark">'
        + element("title", escape(title))
        + element("style", _resource("page.css"))
        + "</head><body>"
        + _header(data)
        + _contents(sections)
        + element("main", *(section.html() for section in sections))
        + f'<script type="application/json" id="data">{_json(data)}</script>'
        + f"<script>{_resource('page.js')}</script>"
        + "</body></html>\n"
    )


def verdict(data: ReportData) -> str:
    """Return the outcome in one sentence."""
    cost = "and costs nothing, for the merged float model meets the budget as it is"
    if data.unseen is not None:
        u = data.unseen
        cost = (
            f"and moves the outputs by {number(u.value)} (95%: {number(u.low)} to {number(u.high)}; "
            f"{data.cost_unit}) on {data.samples} samples that the search never saw"
        )
    return (
        f"Of {len(data.variants)} variants measured, the chosen one, {data.winner.name}, takes at most "
        f"{latency(data, data.upper)}{_of(data)} on {data.device}, within the budget of "
        f"{data.budget}, {cost}."
    )


def _of(data: ReportData) -> str:
    return " the merged float model's latency" if data.unit.startswith("×") else ""


def _header(data: ReportData) -> str:
    facts = (
        ("device", data.device),
        ("runtime", data.target),
        ("budget", data.budget),
        ("measured, upper bound", latency(data, data.upper)),
    )
    listed = (element("div", element("dt", escape(k)), element("dd", escape(v))) for k, v in facts)
    advice = (element("p", escape(f"Advice: {text}"), class_="advice") for text in data.advice)
    return element(
        "header",
        element("h1", escape(data.model)),
        element("p", escape(verdict(data)), class_="verdict"),
        element("dl", *listed),
        *advice,
    )


def _contents(sections: list[Section]) -> str:
    links = (element("a", escape(s.title), href=f"#{s.name}") for s in sections)
    return element("nav", *links, aria_label="Sections")


def _json(data: ReportData) -> str:
    document: dict[str, Any] = {"schema": SCHEMA, **asdict(data)}
    # Within a script element only its own end must not occur; `<` in JSON stands in strings alone.
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def _resource(name: str) -> str:
    return files("edgewright.search_report").joinpath(name).read_text(encoding="utf-8")
