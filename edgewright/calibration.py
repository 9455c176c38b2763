"""Measure the kernels that a model's open choices need, and nothing else.

A merge region can be written in several equal forms; which is the fastest depends on the device.
The kernels of those forms are lowered one by one, measured beside each other on the device
(`devices.latency`), and kept in the measurement database, of which the latency table is a query.
A new table may settle some choices and open others, so this repeats, a few times at most. A kernel
that has its reading is not measured again: an interrupted calibration goes on where it stopped.

The fixed cost of a call is measured in the same run and taken off. What stays is the kernel as it is
when it runs alone; what a runtime gains by fusing it with a neighbour is told by the pairs measured
beside it (`compiler.cost.fusion`), what a neighbour loses by the cache it takes is not in it.

Which kernels are needed is said by stages (`edgewright.calibration_stages`), what a limited calibration
measures first by `edgewright.measuring_budget`, and what the readings come to by `edgewright.feedback`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import WholeProgram
from compiler.device import Device, DeviceProfile
from compiler.errors import DeviceError, UnstableMeasurementError, UnsupportedModelError
from compiler.ir.graph import Graph
from devices import open_device
from devices.benchmark import Candidate, Report, check_expected
from devices.benchmark import Progress as Event
from devices.database import MeasurementDatabase
from devices.latency import latency_table, measure_run, split_runs
from devices.programs import keep_program
from edgewright.calibration_stages import DECISIONS, Choose, Needs, check_decisions
from edgewright.feedback import Feedback, feedback
from edgewright.kernel_programs import Bench, chain_candidates, kernel_candidate, start_failure
from edgewright.measuring import exclusive
from edgewright.measuring_budget import Budget, Spending
from edgewright.models import LoadedModel, load_model
from edgewright.profiling import UNITS
from edgewright.recipe import prior_of, resolve
from edgewright.stages import Progress, canonicalise, silent

SCHEMA = "edgewright.calibration/2"
MOST_PASSES = 4
MOST_TRIES = 2  # of one kernel, where its reading is not steady


class Outcome(StrEnum):
    """What became of a kernel whose price was needed."""

    MEASURED = "measured"
    KNOWN = "known"  # its reading was there already
    UNSTEADY = "unsteady"  # measured, but not steadily enough to decide on
    REFUSED = "refused"  # the target does not lower it, or its runtime does not run it
    LEFT = "left"  # the budget was spent before


@dataclass(frozen=True)
class Calibration:
    """The table after a calibration, and what became of each kernel; `refused` holds the reasons.

    `needs` are the kernels that each graph asked for, by text; `feedback` is what the readings come to.
    """

    table: LatencyTable
    outcomes: Mapping[Kernel, Outcome]
    refused: Mapping[Kernel, str]
    needs: Sequence[Collection[str]] = ()
    feedback: Feedback | None = None

    def kernels(self, outcome: Outcome) -> tuple[Kernel, ...]:
        """Return the kernels with one outcome, by text."""
        return tuple(kernel for kernel, its in self.outcomes.items() if its is outcome)

    def document(self) -> dict[str, Any]:
        """Return the calibration as JSON values; latencies carry their unit in the field's name."""
        table, unit = self.table, UNITS[self.table.metric]
        return {
            "schema": SCHEMA,
            "table": table.label,
            "device": table.device,
            "target": table.target,
            "threads": table.threads,
            "metric": table.metric.value,
            **_latency(table.fixed, unit, "fixed_"),
            "outcomes": {o.value: len(self.kernels(o)) for o in Outcome},
            "interval_percent": 95,
            "kernels": [
                {
                    "kernel": kernel.text,
                    "outcome": outcome.value,
                    **_latency(table.entry(kernel), unit),
                    "reason": self.refused.get(kernel),
                }
                for kernel, outcome in self.outcomes.items()
            ],
            **(self.feedback.document(unit) if self.feedback else {}),
        }


def calibrate(
    models: Sequence[str | torch.nn.Module | torch.export.ExportedProgram],
    profile: str | DeviceProfile = "host",
    device: str | Device = "local",
    target: str | None = None,
    inputs: Any = None,
    *,
    database: str | Path | MeasurementDatabase = "sqlite://",
    randomize: int | None = None,
    allow_unstable: bool = False,
    decide: Collection[str] = DECISIONS,
    budget: Budget | None = None,
    choose: Choose | None = None,
    wait_s: float | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Measure what the open choices of models need on a device, and fit the cost model to it.

    Args:
        models: as `compile` takes them.
        profile: how to run: the name of a device profile, its TOML file, or a profile.
        device: `local`, or a device from `edgewright devices`.
        target: the runtime; the profile's first one by default.
        inputs: example inputs of every model, as `compile` takes them.
        database: where readings are kept: a path, an SQLAlchemy URL, an open database, or
            `sqlite://` (the default) to keep nothing.
        randomize: a seed for weights that make merging non-trivial, as `compile` takes it.
        allow_unstable: return where some kernels have no steady reading, in place of raising.
        decide: what the readings are for, of `merge`, `latency`, `precision` and `width`
            (`edgewright.calibration_stages`); all by default.
        budget: the most kernels or seconds; what would change a decision is then measured first.
        choose: which kernels a graph needs, given a table, in place of those of `decide`; nothing is fitted.
        wait_s: how long to wait for a device that is in use, in seconds; as long as it takes by default.
        progress: called with the name of each step.

    Raises:
        UsageError: something given cannot be read.
        UnsupportedModelError: a model cannot be exported.
        DeviceError: the device is missing, lost, in use, or not the one the profile expects.
        UnstableMeasurementError: a kernel has no reading steady enough to decide on; the others are kept.
    """
    check_decisions(decide)
    chosen, found = resolve(profile, target)
    opened = open_device(device) if isinstance(device, str) else device
    check_expected(found, opened.fingerprint())  # not after the models are read
    loaded = [load_model(model, inputs, randomize=randomize) for model in models]
    graphs = [canonicalise(model, progress=progress).graph for model in loaded]
    ours = exclusive(opened, database, wait_s, progress)
    with ours as kept, tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        bench = Bench(chosen, found, opened, kept, Path(folder))
        needs = Needs(decide, prior_of(chosen), chosen.precisions)
        spending = Spending(
            budget or Budget(), lambda table: [c for g in graphs for c in needs.choices(g, table)]
        )
        stages = (choose,) if choose else needs.stages(spending.budget.limited)
        done = calibrate_graphs(graphs, bench, stages, progress, spending)
    if choose is None:
        names = {f"{i + 1}: {m.spec}" if _twice(loaded, m.spec) else m.spec: i for i, m in enumerate(loaded)}
        progress("fit the cost model")
        done = replace(done, feedback=feedback({n: graphs[i] for n, i in names.items()}, needs, done))
    if done.kernels(Outcome.UNSTEADY) and not allow_unstable:
        raise _unsteady(done, opened)
    return done


def calibrate_graphs(
    graphs: Sequence[Graph],
    bench: Bench,
    stages: Sequence[Choose],
    progress: Progress = silent,
    spending: Spending | None = None,
) -> Calibration:
    """Measure what each stage needs of graphs until it needs no more, `MOST_PASSES` times at most."""
    spending = spending or Spending(Budget(), lambda _: ())
    under = bench.conditions()
    before = table = latency_table(bench.database, under)
    asked: list[dict[str, Kernel]] = [{} for _ in graphs]
    if before.entries:
        _ask(asked, graphs, None, stages[0])
        asked = [{text: k for text, k in own.items() if text in before.entries} for own in asked]
    tries: Counter[str] = Counter()
    refused: dict[Kernel, str] = {}

    def missing() -> dict[str, Kernel]:
        return {
            text: kernel
            for own in asked
            for text, kernel in own.items()
            if text not in table.entries and kernel not in refused and tries[text] < MOST_TRIES
        }

    for choose in stages:
        for _ in range(MOST_PASSES):
            _ask(asked, graphs, table, choose)
            batch = spending.batch(missing(), table)
            if not batch:
                break
            while batch:
                tries.update(batch.keys())
                refused |= _measure(batch, bench, progress)
                table = latency_table(bench.database, under)
                batch = spending.batch(missing(), table) if spending.budget.limited else {}
    needed = {text: kernel for own in asked for text, kernel in own.items()}
    outcomes = {needed[t]: _outcome(needed[t], before, table, refused, tries) for t in sorted(needed)}
    return Calibration(table, outcomes, refused, asked)


def _ask(
    asked: Sequence[dict[str, Kernel]], graphs: Sequence[Graph], table: LatencyTable | None, choose: Choose
) -> None:
    """Add to what each graph asked for."""
    known = table if table is not None and table.entries else None
    for own, graph in zip(asked, graphs, strict=True):
        own |= {kernel.text: kernel for kernel in choose(graph, known)}


def _outcome(
    kernel: Kernel,
    before: LatencyTable,
    after: LatencyTable,
    refused: Mapping[Kernel, str],
    tries: Mapping[str, int],
) -> Outcome:
    if kernel in refused:
        return Outcome.REFUSED
    if kernel.text in before.entries:
        return Outcome.KNOWN
    if kernel.text in after.entries:
        return Outcome.MEASURED
    return Outcome.UNSTEADY if tries.get(kernel.text) else Outcome.LEFT


def _measure(missing: Mapping[str, Kernel], bench: Bench, progress: Progress) -> dict[Kernel, str]:
    """Measure kernels run by run; return those the target does not lower or run, with its reasons."""
    refused: dict[Kernel, str] = {}
    chains = chain_candidates(bench)
    done = 0
    for texts in split_runs(missing):
        candidates: list[Candidate] = []
        for text in texts:
            progress(f"lower {done + len(candidates) + 1} of {len(missing)} kernels")
            try:
                candidates.append(kernel_candidate(missing[text], bench))
                if isinstance(program := missing[text], WholeProgram):
                    keep_program(bench.database, text, program.written)
            except UnsupportedModelError as error:
                refused[missing[text]] = str(error)
        if candidates:
            tell = _told(progress, f"kernels {done + 1} to {done + len(texts)} of {len(missing)}")
            broken = _measure_run(candidates, chains, bench, tell)
            refused |= {missing[text]: reason for text, reason in broken.items()}
        done += len(texts)
    return refused


def _measure_run(
    candidates: Sequence[Candidate], chains: Mapping[int, Candidate], bench: Bench, tell: Report
) -> dict[str, str]:
    """Measure one run; return the texts of kernels that lower and then do not run, with the reasons.

    Only when a run fails, each program is started by itself, to tell a kernel that the runtime
    cannot run from a device that was lost.
    """
    try:
        measure_run(candidates, chains, bench.device, bench.profile, bench.database, tell)
        return {}
    except DeviceError:
        if any(start_failure(chain, bench) for chain in chains.values()):
            raise
        failures = {c.label: start_failure(c, bench) for c in candidates}
        broken = {text: reason for text, reason in failures.items() if reason is not None}
        if not broken:
            raise
    rest = [c for c in candidates if c.label not in broken]
    return broken | (_measure_run(rest, chains, bench, tell) if rest else {})


def _latency(entry: Entry | None, unit: str, prefix: str = "") -> dict[str, float | None]:
    values = asdict(entry) if entry else dict.fromkeys(("median", "low", "high"))
    return {f"{prefix}{name}_{unit}": value for name, value in values.items()}


def _told(progress: Progress, label: str) -> Callable[[Event], None]:
    """Tell each time that a further round of all programs has begun."""
    most = 0

    def tell(event: Event) -> None:
        nonlocal most
        if event.event == "round" and event.rounds > most:
            most = event.rounds
            progress(f"measure {label}: round {most}")

    return tell


def _twice(loaded: Sequence[LoadedModel], spec: str) -> bool:
    return sum(model.spec == spec for model in loaded) > 1


def _unsteady(done: Calibration, device: Device) -> UnstableMeasurementError:
    kernels = done.kernels(Outcome.UNSTEADY)
    return UnstableMeasurementError(
        f"{device.name}: {len(kernels)} of {len(done.outcomes)} kernels have no reading steady enough to "
        f"decide on, the first is {kernels[0].text}. Quieten the device and run the same command again: "
        f"what is done is kept. Or go on without them with --allow-unstable"
    )
