"""The tables of `edgewright calibrate`, made from the same document that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewright.cli.output import emit_table, stdout


def calibration(document: Mapping[str, Any]) -> None:
    """Show what was measured and what was known, with its latency; then what has none, and why."""
    unit, scale = ("us", 1e3) if document["metric"] != "instructions" else ("count", 1.0)
    field = "ns" if unit == "us" else "count"
    priced = [k for k in document["kernels"] if k[f"median_{field}"] is not None]
    rows = [
        (k["kernel"], k["outcome"], *(k[f"{name}_{field}"] / scale for name in ("median", "low", "high")))
        for k in priced
    ]
    columns = ("kernel", "outcome", f"median, {unit}", "low", "high")
    emit_table(f"{document['table']}; of them used here", columns, rows)
    missing = [k for k in document["kernels"] if k not in priced]
    if missing:
        reasons = [(k["kernel"], k["outcome"], _short(k["reason"])) for k in missing]
        emit_table("without a latency", ("kernel", "outcome", "reason"), reasons)
    stdout().print(_summary(document, field, scale, unit), highlight=False, markup=False)


def _short(reason: str | None) -> str | None:
    """Return the first line of a reason, without the command of the runner that reports it."""
    return reason.splitlines()[0].rpartition(" reports: ")[2] if reason else None


def _summary(document: Mapping[str, Any], field: str, scale: float, unit: str) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in document["outcomes"].items() if count)
    fixed = document[f"fixed_median_{field}"]
    taken = "" if fixed is None else f" The fixed cost of a call, {fixed / scale:.4g} {unit}, is taken off."
    return f"{counts or 'No kernel is needed'}.{taken}"
