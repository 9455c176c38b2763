"""The plan: what is decided at each site, by module."""

from __future__ import annotations

from edgewright.search_report.data import PlanRow, ReportData
from edgewright.search_report.numbers import signed
from edgewright.search_report.section import Section, table
from edgewright.search_report.words import bounded, units


def plan_table(data: ReportData) -> Section:
    """Return the section."""
    taken = sum(row.option is not None for row in data.plan)
    says = (
        f"{taken} of {len(data.plan)} sites are changed, the others kept as they are. The change of latency "
        f"is the fitted model's, within this plan, conversions between formats included; the cost is that of "
        f"the decision alone, as measured. Neither need add up to the whole."
    )
    columns = ("module", "site", "method", "option", "latency change", "cost alone")
    return Section(
        "plan", "Plan by module", says, table(f"Decisions by module; {units(data)}", columns, _rows(data), 2)
    )


def _rows(data: ReportData) -> list[tuple[str, ...]]:
    return [(r.module, r.site, r.method, *_decided(r)) for r in data.plan]


def _decided(row: PlanRow) -> tuple[str, str, str]:
    if row.option is None:
        return "kept", "", ""
    return row.option, "–" if row.change is None else signed(row.change), bounded(row.cost)
