"""What a calibration's readings come to: fusions, choices with the figures that decide, the model's error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from compiler.cost.choices import Beliefs, Choice, beliefs, option_belief, settled, value
from compiler.cost.fitted import PERCENT, FittedModel
from compiler.cost.fusion import Fusion, fused_kinds, fusions
from compiler.cost.latency_table import LatencyTable
from compiler.cost.reading import fit_table
from compiler.cost.total import Total
from compiler.ir.graph import Graph
from edgewright.calibration_stages import LATENCY, Needs
from edgewright.held_out import Accuracy, HeldOut, accuracy, hold_out


class Calibrated(Protocol):
    """What feedback is on: a table, and the kernels each graph asked for."""

    @property
    def table(self) -> LatencyTable:
        """The table after the calibration."""
        ...

    @property
    def needs(self) -> Sequence[Collection[str]]:
        """The kernels that each graph asked for, by text."""
        ...


@dataclass(frozen=True)
class Feedback:
    """Verdicts on pairs, the choices by model, the fitted model where there are readings, and its errors."""

    table: LatencyTable
    fusions: tuple[Fusion, ...]
    choices: Mapping[str, tuple[Choice, ...]]
    model: FittedModel | None
    held_out: tuple[HeldOut, ...]
    accuracy: Accuracy | None

    def document(self, unit: str) -> dict[str, Any]:
        """Return all as JSON values; latencies carry their unit in the field's name."""
        belief = beliefs(self.table, self.model)
        return {
            "prediction_interval_percent": PERCENT,
            "fusions": _fusions(self.fusions),
            "choices": [_choice(m, c, belief, unit) for m, found in self.choices.items() for c in found],
            "cost_model": None if self.model is None else _model(self.model),
            "held_out": [_held_out(row, unit) for row in self.held_out],
            "held_out_summary": None if self.accuracy is None else asdict(self.accuracy),
        }


def feedback(graphs: Mapping[str, Graph], needs: Needs, done: Calibrated) -> Feedback:
    """Return what a calibration's table says of canonical graphs, in the order they were calibrated in."""
    table = done.table
    rows: tuple[HeldOut, ...] = ()
    if LATENCY in needs.decide:
        programs = {name: needs.merged(g, table) for name, g in graphs.items() if not g.symbols}
        asked = {name: list(own) for name, own in zip(graphs, done.needs, strict=True)}
        rows = hold_out(programs, asked, table)
    return Feedback(
        table,
        fusions(table),
        {name: needs.choices(graph, table) for name, graph in graphs.items()},
        fit_table(table),
        rows,
        accuracy(rows),
    )


def total_document(total: Total, unit: str) -> dict[str, Any]:
    """Return a sum of kernels as JSON values: how many of them are measured, predicted, or neither."""
    return {
        "kind": "predicted" if total.predicted else "sum of measured kernels",
        "interval_percent": PERCENT,
        **_bounds(None if total.entry is None else asdict(total.entry), unit),
        "kernels_measured": total.measured,
        "kernels_predicted": total.predicted,
        "kernels_fused": total.fused,
        "kernels_unknown": dict(total.unknown),
    }


def _bounds(entry: Mapping[str, float] | None, unit: str, prefix: str = "") -> dict[str, float | None]:
    return {f"{prefix}{k}_{unit}": None if entry is None else entry[k] for k in ("median", "low", "high")}


def _fusions(found: Sequence[Fusion]) -> list[dict[str, Any]]:
    """Return the verdict of each pair of kinds, with the pairs it rests on."""
    verdicts = fused_kinds(found)
    return [
        {
            "kinds": list(kinds),
            "fused": fused,
            "verdicts": dict(Counter(f.verdict.value for f in found if f.kinds == kinds)),
            "saved_of_the_smaller": [round(f.saved.median, 3) for f in found if f.kinds == kinds],
        }
        for kinds, fused in sorted(verdicts.items())
    ]


def _choice(model: str, choice: Choice, belief: Beliefs, unit: str) -> dict[str, Any]:
    options: list[dict[str, Any]] = []
    for option in choice.options:
        held = option_belief(option, belief)
        low, high = (None, None) if held is None else held.interval
        told = "unknown" if held is None else "measured" if held.measured else "predicted"
        bounds = {"median": held and held.mean, "low": low, "high": high}
        options.append(
            {"option": option.name, "latency": told, **{f"{k}_{unit}": v for k, v in bounds.items()}}
        )
    known = [o for o in options if o[f"median_{unit}"] is not None]
    best = min(known, key=lambda o: o[f"median_{unit}"], default=None)
    return {
        "model": model,
        "site": choice.site,
        "method": choice.method,
        "options": options,
        "best": best and best["option"],
        "settled": settled(choice, belief),
        f"value_of_measuring_{unit}": value(choice, belief),
    }


def _model(model: FittedModel) -> dict[str, Any]:
    return {
        "readings": len(model.kinds),
        "kinds": dict(model.counts),
        "left_out_error_median": model.left_out_error,
    }


def _held_out(row: HeldOut, unit: str) -> dict[str, Any]:
    return {
        "model": row.model,
        **_bounds(None if row.measured is None else asdict(row.measured), unit, "measured_"),
        "kernels_forgotten": row.forgotten,
        "predicted": total_document(row.predicted, unit),
        **_bounds(None if row.corrected is None else asdict(row.corrected), unit, "corrected_"),
        "error": row.error,
        "corrected_error": row.corrected_error,
        "covered": row.covered,
    }
