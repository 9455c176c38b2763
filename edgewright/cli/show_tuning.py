"""The table of `edgewright tune`, made from the same document that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewright.cli.output import emit_table, stdout


def tuning(document: Mapping[str, Any]) -> None:
    """Show what each kernel's best schedule takes beside its default one, then what cannot be tuned."""
    counts = document["metric"] == "instructions"
    field, unit, scale = ("count", "instructions", 1.0) if counts else ("ns", "us", 1e3)

    def scaled(value: float | None) -> float | None:
        return None if value is None else value / scale

    rows = [
        (
            *(k["kernel"], k["calls"], k["trials"], k["failed"]),
            *(scaled(k[f"{name}_{field}"]) for name in ("default", "best")),
            k["speedup"],
        )
        for k in document["kernels"]
    ]
    columns = ("kernel", "calls", "trials", "failed", f"default, {unit}", f"best, {unit}", "times faster")
    emit_table(f"{document['target']} on {document['device']}", columns, rows)
    if document["refused"]:
        reasons = [(r["kernel"], r["reason"]) for r in document["refused"]]
        emit_table("not tuned", ("kernel", "reason"), reasons)
    tuned, total = document["tuned_kernels"], len(document["kernels"])
    text = f"{document['measured']} measured now; {tuned} of {total} kernels are faster than by default."
    stdout().print(text, highlight=False, markup=False)
