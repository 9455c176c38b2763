"""Writes the report beside the plan, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from edgewright.artifact import write_text
from edgewright.search_output import SearchResult
from edgewright.search_report.collect import Graphs, report_data
from edgewright.search_report.page import page

NAME = "search.html"


def write_report(
    result: SearchResult, graphs: Graphs, table: LatencyTable | None = None, prior: Roofline = PRIOR
) -> Path:
    """Write a search's report into its folder and return its path; arguments as of `report_data`."""
    path = result.folder / NAME
    partial = path.with_name(f".{NAME}.partial")
    try:
        write_text(partial, page(report_data(result, graphs, table, prior)))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
