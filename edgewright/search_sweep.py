"""Several budgets from the same measurements: a plan folder for each, and the front they make.

    OUT/0.8x/ ...    each as a search of that budget alone writes it
    OUT/front.json   the points: budget, measured latency, costs; of an infeasible one the reason
    OUT/front.md     the same as a table

The loosest budget is searched first. What was measured for one is known to the next, and all that may be
measured is for all of them together.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compiler.errors import InfeasibleBudgetError, UsageError
from compiler.search.budget import Budget, parse_budget
from compiler.search.trial import Trial
from edgewright.artifact import write_json, write_text
from edgewright.search_output import FRONT_SCHEMA, UNITS, SearchResult, point_document, point_row, summary
from edgewright.search_run import opened, search_point
from edgewright.search_samples import Halves
from edgewright.search_setting import Setting, check_metric
from edgewright.stages import Prepared

COLUMNS = ("budget", "time", "ratio", "cost", "unseen cost", "MB", "folder")


@dataclass(frozen=True)
class Point:
    """One budget of a sweep: what came of it, or why nothing did."""

    budget: Budget
    result: SearchResult | None
    reason: str | None = None


@dataclass(frozen=True)
class SweepResult:
    """The points of a sweep, the loosest budget first."""

    folder: Path
    model: str
    points: tuple[Point, ...]

    def document(self) -> dict[str, Any]:
        """Return the sweep as JSON values, with its table and a summary in words."""
        found = [p.result for p in self.points if p.result is not None]
        kind = f", cost in {UNITS[found[0].kind]}" if found else ""
        lines = [f"{p.budget}: {p.reason or summary(_result(p))[0]}" for p in self.points]
        return {
            "schema": FRONT_SCHEMA,
            "model": self.model,
            "out": str(self.folder),
            "points": [_point(p) for p in self.points],
            "tables": {f"{self.model}: {len(self.points)} budgets{kind}": [_row(p) for p in self.points]},
            "summary": [*lines, f"written to {self.folder}: a folder for each budget, front.md, front.json"],
        }


def read_sweep(text: str) -> tuple[Budget, ...]:
    """Read budgets such as `0.8x,0.6x,0.4x`, all of one kind, and return the loosest first.

    Raises UsageError where one cannot be read, two are alike or they are of several kinds.
    """
    budgets = [parse_budget(part) for part in text.split(",")]
    kinds = {(b.ratio is None, b.instructions is None) for b in budgets}
    if len(kinds) > 1:
        raise UsageError(f"the budgets {text!r} are of several kinds: give all as times, or all as ratios")
    if len(set(budgets)) < len(budgets):
        raise UsageError(f"a budget stands twice in {text!r}")
    return tuple(sorted(budgets, key=lambda b: -b.limit(1.0)))


def run_sweep(prepared: Prepared, halves: Halves, setting: Setting, budgets: Sequence[Budget]) -> SweepResult:
    """Search for each budget in turn on a prepared model.

    Raises InfeasibleBudgetError where none of them can be met.
    """
    for budget in budgets:
        check_metric(budget, setting.profile)
    points: list[Point] = []
    known: tuple[Trial, ...] = ()
    with opened(prepared, halves, replace(setting, budget=budgets[0])) as lab:
        for budget in budgets:
            setting.progress(f"budget {budget}")
            own = replace(setting, budget=budget, out=setting.out / str(budget))
            try:
                result = search_point(prepared, lab, own, known)
            except InfeasibleBudgetError as error:
                points.append(Point(budget, None, str(error)))
                continue
            known = tuple(t for t in result.outcome.trials if not t.heals)
            points.append(Point(budget, result))
    if all(p.result is None for p in points):
        raise InfeasibleBudgetError(points[0].reason)
    made = SweepResult(setting.out, prepared.model.spec, tuple(points))
    write_front(made)
    shutil.rmtree(setting.out / "work")
    return made


def write_front(made: SweepResult) -> None:
    """Write the front beside the points' folders."""
    document = made.document()
    write_json(made.folder / "front.json", {k: v for k, v in document.items() if k != "tables"})
    (title, rows), *_ = document["tables"].items()
    table = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    table += ["| " + " | ".join(row[c] for c in COLUMNS) + " |" for row in rows]
    lines = [f"# {title}", "", *table, "", *(f"- {line}" for line in document["summary"])]
    write_text(made.folder / "front.md", "\n".join(lines) + "\n")


def _result(point: Point) -> SearchResult:
    assert point.result is not None
    return point.result


def _point(point: Point) -> dict[str, Any]:
    found = {"reason": point.reason} if point.result is None else point_document(point.result)
    return {"budget": str(point.budget), **found}


def _row(point: Point) -> dict[str, str]:
    if point.result is None:
        return {**dict.fromkeys(COLUMNS, "-"), "budget": str(point.budget), "time": "infeasible"}
    return {"budget": str(point.budget), **point_row(point.result)}
