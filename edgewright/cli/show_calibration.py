"""The tables of `edgewright calibrate`, made from the same document that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgewright.cli.output import emit_table, stdout

SHOWN = 20  # choices, those that measuring would settle first; --json has all


def calibration(document: Mapping[str, Any]) -> None:
    """Show what was measured and was known, what has no latency and why, and what it all comes to."""
    unit, scale = ("us", 1e3) if document["metric"] != "instructions" else ("count", 1.0)
    field = "ns" if unit == "us" else "count"
    priced = [k for k in document["kernels"] if k[f"median_{field}"] is not None]
    rows = [
        (k["kernel"], k["outcome"], *(k[f"{name}_{field}"] / scale for name in ("median", "low", "high")))
        for k in priced
    ]
    columns = ("kernel", "outcome", f"median, {unit}", "low", "high")
    emit_table(f"{document['table']}; of them used here", columns, rows)
    missing = [k for k in document["kernels"] if k not in priced and k["outcome"] != "left"]
    if missing:
        reasons = [(k["kernel"], k["outcome"], _short(k["reason"])) for k in missing]
        emit_table("without a latency", ("kernel", "outcome", "reason"), reasons)
    if document.get("fusions"):
        _fusions(document["fusions"])
    if document.get("choices"):
        _choices(document["choices"], field, scale, unit)
    if document.get("held_out"):
        _held_out(document, field, scale, unit)
    stdout().print(_summary(document, field, scale, unit), highlight=False, markup=False)


def _fusions(found: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            " then ".join(f["kinds"]),
            "fused" if f["fused"] else "apart",
            ", ".join(f"{count} {verdict}" for verdict, count in f["verdicts"].items()),
            ", ".join(f"{100 * s:.0f}%" for s in f["saved_of_the_smaller"]),
        )
        for f in found
    ]
    columns = ("operations", "verdict", "pairs", "saved, of the smaller")
    emit_table("fusion: what pairs take together and apart", columns, rows)


def _choices(found: Sequence[Mapping[str, Any]], field: str, scale: float, unit: str) -> None:
    order = sorted(found, key=lambda c: (c["settled"], -c[f"value_of_measuring_{field}"]))
    rows = [
        (
            c["method"],
            c["site"],
            "\n".join(_option(o, field, scale) for o in c["options"]),
            f"{c['best'] or '-'}{'' if c['settled'] else ' (open)'}",
        )
        for c in order[:SHOWN]
    ]
    title = f"choices: {len(found)}, {sum(c['settled'] for c in found)} settled by intervals that lie apart"
    emit_table(title, ("what", "where", f"options, {unit}", "best"), rows)


def _option(option: Mapping[str, Any], field: str, scale: float) -> str:
    if option[f"median_{field}"] is None:
        return f"{option['option']}: unknown"
    median, low, high = (option[f"{name}_{field}"] / scale for name in ("median", "low", "high"))
    return f"{option['option']}: {median:.4g} ({low:.4g} to {high:.4g}) {option['latency']}"


def _held_out(document: Mapping[str, Any], field: str, scale: float, unit: str) -> None:
    rows = [_held_out_row(row, field, scale) for row in document["held_out"]]
    columns = (
        "model left out",
        f"measured, {unit}",
        "predicted",
        "interval",
        "error",
        "corrected",
        "kernels",
    )
    emit_table("whole models, each predicted from the others' kernels", columns, rows)
    summary = document["held_out_summary"]
    if summary is None:
        line = "No model could be held out: give two or more that share kinds of operations."
    else:
        line = (
            f"Over {summary['models']} held-out models: {100 * summary['mape']:.1f}% mean absolute error, "
            f"{100 * summary['within']:.0f}% of them within 10%, "
            f"{100 * summary['coverage']:.0f}% inside their {summary['percent']}% interval."
        )
        if summary["corrected_mape"] is not None:
            mended, models = 100 * summary["corrected_mape"], summary["corrected_models"]
            line += f" Corrected by the other models' whole programs: {mended:.1f}% over {models}."
    stdout().print(line, highlight=False, markup=False)


def _held_out_row(row: Mapping[str, Any], field: str, scale: float) -> tuple[str, ...]:
    said, measured = row["predicted"], row[f"measured_median_{field}"]
    kernels = f"{said['kernels_measured']} measured, {said['kernels_predicted']} predicted"
    first = (row["model"], "-" if measured is None else f"{measured / scale:.4g}")
    if said[f"median_{field}"] is None:
        unknown = ", ".join(said["kernels_unknown"]) or "no kernels"
        return *first, "-", "-", "-", "-", f"none like {unknown}"
    median, low, high = (said[f"{name}_{field}"] / scale for name in ("median", "low", "high"))
    errors = ("-" if row[k] is None else f"{100 * row[k]:+.1f}%" for k in ("error", "corrected_error"))
    return *first, f"{median:.4g}", f"{low:.4g} to {high:.4g}", *errors, kernels


def _short(reason: str | None) -> str | None:
    """Return the first line of a reason, without the command of the runner that reports it."""
    return reason.splitlines()[0].rpartition(" reports: ")[2] if reason else None


def _summary(document: Mapping[str, Any], field: str, scale: float, unit: str) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in document["outcomes"].items() if count)
    fixed = document[f"fixed_median_{field}"]
    taken = "" if fixed is None else f" The fixed cost of a call, {fixed / scale:.4g} {unit}, is taken off."
    left = " Run the same command again for those that are left." if document["outcomes"].get("left") else ""
    return f"{counts or 'No kernel is needed'}.{taken}{left}"
