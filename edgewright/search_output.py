"""What a search leaves behind, as documents and as files.

    artifact/    the winner, a normal artifact folder
    plan.txt     its decisions, as `compile --plan` takes them
    plan.json    the decisions with budget, measured latency, costs and digests
    tried.json   every variant that was measured
    tried.md     the same as a table
    search.html  all of it to look at (`edgewright.search_report`)

Times carry their unit in the field's name; ratios are multiples of the merged float model's time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler.compress.healing import healed
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.search.budget import Budget
from compiler.search.latency import LatencyModel
from compiler.search.output_cost import CostEstimate, CostKind
from compiler.search.space import PRECISION, Space
from compiler.search.trial import Outcome, Reading, Trial
from compiler.search.wording import in_words
from edgewright.artifact import write_json, write_text

SCHEMA = "edgewright.search/1"
PLAN_SCHEMA = "edgewright.plan/1"
TRIED_SCHEMA = "edgewright.tried/1"
FRONT_SCHEMA = "edgewright.front/1"
UNITS = {
    CostKind.KL: "KL divergence in nats",
    CostKind.JS: "JS divergence in nats",
    CostKind.NMSE: "normalised mean squared error",
}


@dataclass(frozen=True)
class Row:
    """One measured variant: its name in tables, its trial and its size."""

    name: str
    trial: Trial
    bytes: int


@dataclass(frozen=True)
class SearchResult:
    """The chosen variant, everything that was tried, and where it all lies.

    `unseen` is the winner's cost on the half of the calibration data the search never looked at;
    None where the winner is the float model, which costs nothing.
    """

    folder: Path
    artifact: Artifact
    plan: Plan
    model: str
    budget: Budget
    space: Space
    outcome: Outcome
    rows: tuple[Row, ...]
    kind: CostKind
    unseen: CostEstimate | None
    digests: Mapping[str, str]
    advice: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the search as JSON values, with its tables and a summary in words."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "out": str(self.folder),
            "artifact": str(self.artifact.folder),
            "plan": plan_document(self),
            "tried": [tried_document(self, row) for row in self.rows],
            "tables": {f"{self.model}: {len(self.rows)} variants tried, budget {self.budget}": _table(self)},
            "summary": summary(self),
        }


def plan_document(result: SearchResult) -> dict[str, Any]:
    """Return the winner's decisions with what they are worth."""
    winner, model = result.outcome.winner, result.outcome.model
    return {
        "schema": PLAN_SCHEMA,
        "plan_digest": result.plan.digest(),
        "decisions": [asdict(d) for d in result.plan.decisions],
        "budget": str(result.budget),
        **_times(winner.reading),
        "cost_kind": result.kind.value,
        "cost": None if winner.cost is None else asdict(winner.cost),
        "unseen_cost": None if result.unseen is None else asdict(result.unseen),
        "latency_model": None if model is None else _model(result.space, model),
        "digests": dict(result.digests),
        "advice": list(result.advice),
    }


def tried_document(result: SearchResult, row: Row) -> dict[str, Any]:
    """Return one measured variant as JSON values."""
    trial = row.trial
    return {
        "variant": row.name,
        "plan": healed(result.space.plan(trial.choice), trial.heals).text(),
        "predicted_ratio": trial.predicted,
        **_times(trial.reading),
        "within_budget": trial.reading.within(result.budget),
        "cost": None if trial.cost is None else asdict(trial.cost),
        "program_bytes": row.bytes,
        "chosen": trial == result.outcome.winner,
    }


def point_document(result: SearchResult) -> dict[str, Any]:
    """Return a search among others as JSON values: where it is, and what its winner measured and costs."""
    winner, unseen = result.outcome.winner, result.unseen
    return {
        "folder": result.folder.name,
        "plan_digest": result.plan.digest(),
        "ratio": winner.reading.ratio,
        "ratio_high": winner.reading.ratio_high,
        "cost": None if winner.cost is None else asdict(winner.cost),
        "unseen_cost": None if unseen is None else asdict(unseen),
    }


def point_row(result: SearchResult) -> dict[str, str]:
    """Return a search among others as cells of a table."""
    winner, unseen = result.outcome.winner, result.unseen
    judged = "0" if unseen is None else f"{unseen.mean:.3g} ({unseen.low:.3g} to {unseen.high:.3g})"
    return {
        "time": winner.reading.text,
        "ratio": f"{winner.reading.ratio:.3f}x (to {winner.reading.ratio_high:.3f})",
        "cost": "0" if winner.cost is None else f"{winner.cost.mean:.3g}",
        "unseen cost": judged,
        "MB": f"{next(row.bytes for row in result.rows if row.trial == winner) / 1e6:.2f}",
        "folder": result.folder.name,
    }


def summary(result: SearchResult) -> list[str]:
    """Return the outcome in sentences."""
    winner = result.outcome.winner
    reading = winner.reading
    lines = [
        f"chosen: {in_words(result.space, winner.choice, winner.heals)}, {reading.text} on the device, "
        f"{reading.ratio:.3f}x of the merged float model (95%: {reading.ratio_low:.3f} to "
        f"{reading.ratio_high:.3f}), within the budget {result.budget}",
    ]
    if result.unseen is None:
        lines.append("cost: 0, the float model meets the budget as it is")
    else:
        lines.append(
            f"cost on {result.unseen.samples} unseen samples: {result.unseen.mean:.3g} (95%: "
            f"{result.unseen.low:.3g} to {result.unseen.high:.3g}), {UNITS[result.kind]}"
        )
    written = "artifact/, plan.txt, plan.json, tried.md, tried.json, search.html"
    lines.append(f"written to {result.folder}: {written}")
    return [*lines, *(f"advice: {text}" for text in result.advice)]


def write_documents(result: SearchResult) -> None:
    """Write the plan and the tables beside the artifact, each file whole or not at all."""
    tried = [tried_document(result, row) for row in result.rows]
    _replace(result.folder / "plan.txt", lambda path: write_text(path, result.plan.text()))
    _replace(result.folder / "plan.json", lambda path: write_json(path, plan_document(result)))
    _replace(result.folder / "tried.md", lambda path: write_text(path, markdown(result)))
    document = {"schema": TRIED_SCHEMA, "budget": str(result.budget), "tried": tried}
    _replace(result.folder / "tried.json", lambda path: write_json(path, document))


def markdown(result: SearchResult) -> str:
    """Return the table of everything tried, the segments' numbers and the summary."""
    rows = _table(result)
    columns = list(rows[0])
    lines = [f"# {result.model}: variants tried for {result.budget}", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in rows]
    lines += [
        "",
        f"Cost: {UNITS[result.kind]}, mean over samples ± standard error. Times: median, 95% interval.",
        "",
    ]
    segments = [site.name for site in result.space.sites if site.method == PRECISION]
    lines += [f"- segment {i}: `{name}`" for i, name in enumerate(segments, start=1)]
    lines += [f"- left out: {reason}" for reason in result.outcome.refused]
    if result.outcome.unmeasured:
        lines.append(f"- {result.outcome.unmeasured} options were left out of the measurements")
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(result))]) + "\n"


def _table(result: SearchResult) -> list[dict[str, Any]]:
    return [_row(result, row) for row in result.rows]


def _row(result: SearchResult, row: Row) -> dict[str, Any]:
    trial, reading = row.trial, row.trial.reading
    cost = "0" if not any(trial.choice) else "-"
    if trial.cost is not None:
        cost = f"{trial.cost.mean:.3g} ± {trial.cost.error:.1g}"
    verdict = (
        "chosen" if trial == result.outcome.winner else ("yes" if reading.within(result.budget) else "no")
    )
    return {
        "variant": row.name,
        "predicted": "-" if trial.predicted is None else f"{trial.predicted:.3f}x",
        "measured": f"{reading.ratio:.3f}x ({reading.ratio_low:.3f} to {reading.ratio_high:.3f})",
        "time": reading.text,
        "cost": cost,
        "MB": f"{row.bytes / 1e6:.2f}",
        "within": verdict,
    }


def _times(reading: Reading) -> dict[str, float]:
    unit = "million_instructions" if reading.counted else "ms"
    return {
        "ratio": reading.ratio,
        "ratio_low": reading.ratio_low,
        "ratio_high": reading.ratio_high,
        f"median_{unit}": reading.median_ns / 1e6,
        f"low_{unit}": reading.low_ns / 1e6,
        f"high_{unit}": reading.high_ns / 1e6,
        f"float_median_{unit}": reading.base_ns / 1e6,
    }


def _model(space: Space, model: LatencyModel) -> dict[str, Any]:
    """Return the fitted model; all times are multiples of the merged float model's."""
    sites = [
        {"site": s.name, "method": s.method, "option": o, "ratio": t}
        for s, times in zip(space.sites, model.times, strict=True)
        for o, t in zip(s.options, times, strict=True)
        if math.isfinite(t)
    ]
    return {
        "sites": sites,
        "link_ratio": model.alpha,
        "link_byte_ratio": model.beta,
        "overlap_factor": model.gamma,
        "links": [
            {"from": space.sites[k.u].name, "to": space.sites[k.v].name, "bytes": k.bytes}
            for k in space.links
        ],
    }


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
