"""`search --target auto`: a search on each runtime of a profile, and the best of what they found.

    OUT/targets/NAME/   each as a search on that runtime alone writes it
    OUT/targets.json    a row for each runtime: its float model, its winner, or why it has none
    OUT/targets.md      the same as a table
    OUT/...             the files of the best, as a search on its runtime alone writes them

What is fast on one runtime is not on another: each has a search of its own, and may measure as much as one
alone. All have one budget. A ratio r is of the fastest runtime's merged float model: with T_i the times of
the float models, measured interleaved before the searches, runtime i searches within r min_j T_j / T_i of
its own.

The best is the winner that moves the outputs least on the first part of half B, by which no search chose its
plan, and the faster of equals. Its cost is reported on the rest of half B, as ever.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compiler.errors import (
    InfeasibleBudgetError,
    NumericError,
    UnstableMeasurementError,
    UnsupportedModelError,
)
from compiler.plan import Plan
from compiler.search.budget import Budget
from compiler.search.journal import Journal
from compiler.search.output_cost import CostEstimate
from devices.benchmark import measure
from devices.statistics import ratio
from edgewright.artifact import write_json, write_text
from edgewright.measuring import exclusive
from edgewright.search_lab import Lab
from edgewright.search_lowering import VariantStore, variant_candidate
from edgewright.search_output import UNITS, SearchResult, point_document, point_row, summary
from edgewright.search_run import opened, search_point
from edgewright.search_samples import Halves
from edgewright.search_setting import Setting, identity
from edgewright.search_steps import told
from edgewright.stages import Prepared

SCHEMA = "edgewright.targets/1"
FOLDER, DOCUMENT = "targets", "targets.json"
COLUMNS = ("target", "float model", "budget", "time", "cost", "unseen cost", "MB", "chosen")


@dataclass(frozen=True)
class Runtime:
    """A model made ready for one runtime, and how it is searched there."""

    prepared: Prepared
    setting: Setting


@dataclass(frozen=True)
class Standing:
    """What a runtime's search came to: its result with the cost that ranks it, or the reason for none.

    `slower` is its float model's time over the fastest's, None where it was not measured.
    """

    target: str
    budget: Budget
    slower: float | None
    result: SearchResult | None = None
    confirmed: CostEstimate | None = None
    reason: str | None = None

    @property
    def price(self) -> tuple[float, float]:
        """What standings are ranked by: the cost, then the time."""
        assert self.result is not None
        return (self.confirmed.mean if self.confirmed else 0.0, self.result.outcome.winner.reading.median_ns)


@dataclass(frozen=True)
class TargetsResult:
    """The searches on all runtimes, in the profile's order, for the budget that was asked for."""

    folder: Path
    budget: Budget
    standings: tuple[Standing, ...]

    @property
    def best(self) -> Standing:
        """The runtime whose winner costs least."""
        return min((s for s in self.standings if s.result is not None), key=lambda s: s.price)

    def document(self) -> dict[str, Any]:
        """Return the best search as JSON values, with a row for each runtime."""
        found = _result(self.best)
        lines = [f"target: {self.best.target}, the best of {len(self.standings)} for {self.budget}"]
        lines += [f"{s.target}: {s.reason}" for s in self.standings if s.reason]
        kind = UNITS[found.kind]
        table = {f"{found.model}: {len(self.standings)} targets, cost in {kind}": self.rows()}
        document = found.document()
        return {
            **document,
            "out": str(self.folder),
            "artifact": str(self.folder / "artifact"),
            "targets": [_entry(s) for s in self.standings],
            "tables": {**document["tables"], **table},
            "summary": [*lines, *summary(replace(found, folder=self.folder))],
        }

    def rows(self) -> list[dict[str, str]]:
        """Return a line of the table for each runtime."""
        return [{**_row(s), "chosen": "yes" if s is self.best else ""} for s in self.standings]


def run_targets(runtimes: Sequence[Runtime], halves: Halves, budget: Budget, out: Path) -> TargetsResult:
    """Search on each runtime in turn and keep the best at `out`.

    Raises InfeasibleBudgetError, with what each said, where none meets the budget, UnsupportedModelError
    where none takes the model, and UnstableMeasurementError where they cannot be compared.
    """
    first = runtimes[0].setting
    with exclusive(first.device, first.database, first.wait_s, first.progress) as database:
        shared = [Runtime(r.prepared, replace(r.setting, database=database)) for r in runtimes]
        known = {r.setting.target.name: identity(r.prepared.graph, halves, r.setting) for r in shared}
        digests = {name: json.dumps(its, sort_keys=True) for name, its in known.items()}
        journal = Journal(out / FOLDER / "journal.jsonl", digests, first.resume)
        slower = journal.once(lambda: _float_times(shared, out), "float times")
        standings = tuple(_searched(r, halves, budget, slower) for r in shared)
    if all(s.result is None for s in standings):
        infeasible = any(s.slower is not None for s in standings)
        reasons = "; ".join(f"{s.target}: {s.reason}" for s in standings)
        error = InfeasibleBudgetError if infeasible else UnsupportedModelError
        raise error(f"no target of the profile {first.profile.name!r} meets the budget {budget}: {reasons}")
    made = TargetsResult(out, budget, standings)
    _write(made)
    return made


def _searched(runtime: Runtime, halves: Halves, given: Budget, slower: Mapping[str, Any]) -> Standing:
    setting = runtime.setting
    name = setting.target.name
    found = slower[name]
    if isinstance(found, str):
        return Standing(name, given, None, reason=found)
    budget = given if given.ratio is None else Budget(ratio=given.ratio / found)
    setting.progress(f"target {name}, budget {budget}")
    try:
        with opened(runtime.prepared, halves, replace(setting, budget=budget)) as lab:
            result = search_point(runtime.prepared, lab, replace(setting, budget=budget), ())
            return Standing(name, budget, found, result, _confirmed(lab, result))
    except (InfeasibleBudgetError, UnsupportedModelError, NumericError) as error:
        return Standing(name, budget, found, reason=str(error))


def _confirmed(lab: Lab, result: SearchResult) -> CostEstimate | None:
    """Return a winner's cost on samples that did not choose its plan, if there are any."""
    winner = result.outcome.winner
    if not any(winner.choice):
        return None
    return lab.second(winner.choice, winner.heals) if lab.halves.second else winner.cost


def _float_times(runtimes: Sequence[Runtime], out: Path) -> dict[str, float | str]:
    """Return each runtime's float model's time over the fastest's, or why it does not take the model."""
    found: dict[str, float | str] = {}
    candidates = {}
    for runtime in runtimes:
        setting, name = runtime.setting, runtime.setting.target.name
        setting.progress(f"target {name}: lower the float model")
        folder = out / FOLDER / "float" / name
        try:
            with VariantStore(folder, setting.target, setting.profile, 0) as store:
                artifact = store.start(Plan(), lambda r=runtime: r.prepared.graph).result()  # type: ignore[misc]
        except UnsupportedModelError as error:
            found[name] = str(error)
            continue
        candidates[name] = variant_candidate(artifact, setting.target, setting.profile, f"float32 on {name}")
    if not candidates:
        return found
    setting = runtimes[0].setting
    tell = told(setting.progress, len(candidates))
    assert not isinstance(setting.database, str | Path)
    runs = measure(list(candidates.values()), setting.device, setting.profile, setting.database, tell)
    best = min(runs, key=lambda m: m.statistics.median)
    try:
        return found | {n: ratio(m.rounds, best.rounds).value for n, m in zip(candidates, runs, strict=True)}
    except ValueError as error:
        names, device = ", ".join(candidates), setting.device.name
        raise UnstableMeasurementError(
            f"the float models on {names} cannot be compared on {device}: {error}"
        ) from error


def _write(made: TargetsResult) -> None:
    """Put the best's files beside the others' folders, then drop the work."""
    shutil.rmtree(made.folder / "artifact", ignore_errors=True)
    shutil.copytree(
        _result(made.best).folder, made.folder, ignore=shutil.ignore_patterns("work"), dirs_exist_ok=True
    )
    document = {"schema": SCHEMA, "budget": str(made.budget), "targets": [_entry(s) for s in made.standings]}
    write_json(made.folder / DOCUMENT, document)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[c] for c in COLUMNS) + " |" for row in made.rows()]
    write_text(made.folder / "targets.md", "\n".join(lines) + "\n")
    for standing in made.standings:
        shutil.rmtree(made.folder / FOLDER / standing.target / "work", ignore_errors=True)
    shutil.rmtree(made.folder / FOLDER / "float", ignore_errors=True)
    (made.folder / FOLDER / "journal.jsonl").unlink()


def _result(standing: Standing) -> SearchResult:
    assert standing.result is not None
    return standing.result


def _entry(standing: Standing) -> dict[str, Any]:
    entry = {"target": standing.target, "budget": str(standing.budget), "float_ratio": standing.slower}
    if standing.result is None:
        return {**entry, "reason": standing.reason}
    confirmed = None if standing.confirmed is None else asdict(standing.confirmed)
    return {**entry, **point_document(standing.result), "confirmed_cost": confirmed}


def _row(standing: Standing) -> dict[str, str]:
    slower = "-" if standing.slower is None else f"{standing.slower:.3f}x of the fastest"
    row = {**dict.fromkeys(COLUMNS, "-"), "target": standing.target, "float model": slower}
    if standing.result is None:
        return row
    found = {**row, "budget": str(standing.budget), **point_row(standing.result)}
    confirmed = "0" if standing.confirmed is None else f"{standing.confirmed.mean:.3g}"
    return {column: {**found, "cost": confirmed}[column] for column in COLUMNS}
