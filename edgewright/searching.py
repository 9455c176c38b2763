"""Search for the variant of a model that changes its outputs least within a latency budget.

    load -> merge -> calibrate int8 once -> lower and measure the first variants -> costs
         -> solve -> measure the proposal -> tighten and solve again -> verified artifact

The first variants are the merged float model, all int8, and each segment alone in int8. The loop is
`compiler.search.loop`; everything it asks for is done in `edgewright.search_lab`. While it runs, the
work lies in OUT/work with a journal of finished results: the same command run again goes on where
it stopped, and a changed model, calibration, profile, device or runtime starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compiler.compress.apply import Calibrated, calibrate
from compiler.compress.segments import segments
from compiler.device import Device, DeviceProfile
from compiler.errors import UsageError
from compiler.ir.digest import content_digest
from compiler.ir.graph import Graph
from compiler.ir.storage import load_graph, save_graph
from compiler.plan import Plan
from compiler.records import Artifact, Metric
from compiler.search.budget import Budget, parse_budget
from compiler.search.journal import Journal
from compiler.search.loop import Outcome, first_run, search_loop
from compiler.search.space import Choice
from compiler.target import Target
from devices import open_device
from devices.database import MeasurementDatabase
from devices.latency import conditions, latency_table
from edgewright.compilation import assemble
from edgewright.measuring import exclusive
from edgewright.models import load_model
from edgewright.recipe import Recipe, prior_of, resolve
from edgewright.search_lab import Lab, counted, make_space
from edgewright.search_lowering import VariantStore, default_workers
from edgewright.search_output import TRIED_SCHEMA, Row, SearchResult, write_documents
from edgewright.search_report import write_report
from edgewright.search_samples import Halves, halve, read_calibration
from edgewright.stages import Method, Prepared, Progress, Stage, prepare, silent

MOST_SAMPLES = 128  # of each half, evaluated for a cost
RANGE_SAMPLES = 64  # of half A, read for int8 ranges
MOST_TRIALS = 8


@dataclass(frozen=True)
class Setting:
    """Where and how a search runs; `workers` is the number of lowering processes, 0 for none."""

    target: Target
    profile: DeviceProfile
    device: Device
    budget: Budget
    out: Path
    database: str | Path | MeasurementDatabase
    resume: bool = True
    seed: int = 0
    workers: int = 0
    progress: Progress = silent
    wait_s: float | None = None


def search(
    model: str | torch.nn.Module | torch.export.ExportedProgram,
    *,
    latency_budget: str,
    calibration: str | Iterable[Any] | None = None,
    profile: str | DeviceProfile = "host",
    device: str = "local",
    out: str | Path = "out",
    target: str | None = None,
    inputs: Any = None,
    randomize: int | None = None,
    database: str | Path | MeasurementDatabase | None = None,
    resume: bool = True,
    seed: int = 0,
    workers: int | None = None,
    wait_s: float | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Return the variant of a model that moves its outputs least and meets a latency budget on a device.

    Args:
        model: a module in eval mode, an exported program, or a text such as `timm:mobilenetv2_100`.
        latency_budget: `12ms`, `800us`, `3.2Minsn` (emulated), or `0.7x` of the merged float model as
            measured beside it.
        calibration: unlabelled batches: `data.py:batches`, or an iterable of tensors or of tuples of
            them. One half chooses, the other judges the choice.
        profile: the name of a device profile, its TOML file, or a profile.
        device: `local`, or a device from `edgewright devices`.
        out: the folder to write: `artifact/`, `plan.txt`, `plan.json`, `tried.md`, `tried.json`.
        target: the runtime; the profile's first one by default.
        inputs: example inputs, as `compile` takes them.
        randomize: a seed for weights that make merging non-trivial (`edgewright.models.randomize`).
        database: where raw samples are kept: a path, a URL or an open database; by default a file in
            `out`, so that an interrupted measurement goes on.
        resume: go on where an interrupted search of the same model, data and device stopped.
        seed: decides the halves and the bootstrap.
        workers: processes that lower variants side by side; one for each processor by default.
        wait_s: how long to wait for a device that is in use, in seconds; as long as it takes by default.
        progress: called with what happens.

    Raises:
        UsageError: something given cannot be read, or `out` cannot be written.
        UnsupportedModelError: the model cannot be exported, lowered or quantized.
        NumericError: the built program does not compute what the chosen graph computes.
        DeviceError: the device is missing, lost, in use, or not the one the profile expects.
        InfeasibleBudgetError: nothing meets the budget; names the least latency measured.
        UnstableMeasurementError: the device gives no steady reading.
    """
    budget = parse_budget(latency_budget)
    chosen, found = resolve(profile, target)
    _check_metric(budget, found)
    folder = Path(out)
    check_out(folder)
    batches = read_calibration(calibration)
    setting = Setting(
        chosen,
        found,
        open_device(device),
        budget,
        folder,
        database if database is not None else folder / "measurements.db",
        resume,
        seed,
        default_workers() if workers is None else workers,
        progress,
        wait_s,
    )
    progress("load")
    loaded = load_model(model, inputs, randomize=randomize)
    prepared = prepare(loaded, progress, prior=prior_of(chosen))
    return run_search(prepared, halve(prepared.graph, batches, seed), setting)


def run_search(prepared: Prepared, halves: Halves, setting: Setting) -> SearchResult:
    """Search on a prepared model with samples in two halves."""
    work = setting.out / "work"
    identity = _identity(prepared.graph, halves, setting)
    work.mkdir(parents=True, exist_ok=True)
    journal = Journal(work / "journal.jsonl", identity, setting.resume)
    if not len(journal):
        shutil.rmtree(
            work / "variants", ignore_errors=True
        )  # of another model, or of a search not to be resumed
    with ExitStack() as stack:
        calibrated = _calibrate(prepared.graph, halves, journal, work, setting)
        sites = segments(prepared.graph)
        store = VariantStore(work / "variants", setting.target, setting.profile, setting.workers)
        ours = exclusive(setting.device, setting.database, setting.wait_s, setting.progress)
        database = stack.enter_context(ours)
        lab = Lab(
            space=make_space(sites, calibrated),
            segments=sites,
            calibrated=calibrated,
            halves=halves,
            target=setting.target,
            profile=setting.profile,
            device=setting.device,
            database=database,
            journal=journal,
            store=stack.enter_context(store),
            seed=setting.seed,
            progress=setting.progress,
            most_samples=MOST_SAMPLES,
            identity=json.dumps(identity, sort_keys=True),
            paired=setting.budget.ratio is not None,
        )
        outcome = _loop(lab, setting)
        result = _finish(prepared, lab, outcome, setting, identity)
    shutil.rmtree(work)
    return result


def check_out(out: Path) -> None:
    """Raise UsageError where `out` holds something other than a search's results or work."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder to write the search to")
    if (
        out.is_dir()
        and any(out.iterdir())
        and not (_is_result(out) or (out / "work" / "journal.jsonl").is_file())
    ):
        raise UsageError(f"{out} holds files that no search wrote; give an empty or a new folder")


def _is_result(out: Path) -> bool:
    try:
        document = json.loads((out / "tried.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("schema") == TRIED_SCHEMA


def _check_metric(budget: Budget, profile: DeviceProfile) -> None:
    counts = profile.protocol.metric is Metric.INSTRUCTIONS
    if counts and budget.nanoseconds is not None:
        raise UsageError(
            f"the profile {profile.name!r} counts instructions, not time: give the budget as 3.2Minsn, or as "
            f"a ratio, 0.7x"
        )
    if budget.instructions is not None and not counts:
        raise UsageError(
            f"the profile {profile.name!r} measures time, not instructions: give the budget as 12ms, or as "
            f"a ratio, 0.7x"
        )


def _loop(lab: Lab, setting: Setting) -> Outcome:
    lab.prepare(first_run(lab.space, setting.budget), costs=True)
    return search_loop(lab.space, setting.budget, lab.measure, lab.cost, MOST_TRIALS, setting.progress)


def _calibrate(graph: Graph, halves: Halves, journal: Journal, work: Path, setting: Setting) -> Calibrated:
    """Quantise all that can be int8 on half A, or read back what an interrupted search had made."""
    path = work / "int8.json"
    done = journal.get("calibrated")
    if done is not None and path.is_file():
        return Calibrated(graph, load_graph(path), frozenset(done["inputs"]), frozenset(done["outputs"]))
    samples = halves.seen[:RANGE_SAMPLES]
    setting.progress(f"calibrate: {len(samples)} samples")
    tell = counted(setting.progress, "calibrate")
    made = calibrate(graph, setting.target.quantizer, samples, tell)
    save_graph(made.full, path)
    journal.put({"inputs": sorted(made.inputs), "outputs": sorted(made.outputs)}, "calibrated")
    return made


def _finish(
    prepared: Prepared, lab: Lab, outcome: Outcome, setting: Setting, identity: Mapping[str, str]
) -> SearchResult:
    """Judge the winner on the unseen half, verify and write it, and write the tables."""
    winner = outcome.winner.choice
    plan = lab.space.plan(winner)
    unseen = lab.unseen_cost(winner) if winner != lab.space.base else None
    artifact = _assemble(prepared, lab, winner, plan, setting)
    rows = [Row(lab.label(t.choice), t, _bytes(lab.artifact(t.choice))) for t in outcome.trials]
    result = SearchResult(
        folder=setting.out,
        artifact=artifact,
        plan=plan,
        model=prepared.model.spec,
        budget=setting.budget,
        space=lab.space,
        outcome=outcome,
        rows=tuple(rows),
        kind=lab.kind,
        unseen=unseen,
        digests=identity,
        advice=tuple(filter(None, [lab.halves.advice])),
    )
    write_documents(result)
    table = latency_table(lab.database, conditions(setting.device, setting.target, setting.profile))
    write_report(result, lab.graph, table, prior_of(setting.target))
    return result


def _assemble(prepared: Prepared, lab: Lab, winner: Choice, plan: Plan, setting: Setting) -> Artifact:
    """Make the winner a verified artifact folder, from the very files that were measured."""
    variant = lab.artifact(winner)

    def copied(methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Any:
        lowered = lab.store.lowered(variant)
        for name in lowered.files:
            shutil.copyfile(variant.folder / name, folder / name)
        return lowered

    graph = lab.graph(winner)
    stage = None if graph is prepared.graph else Stage("compress", graph, 0.0)
    recipe = Recipe(setting.target, setting.profile, plan)
    methods = [Method(prepared, stage)]
    return assemble(methods, recipe, setting.out / "artifact", setting.progress, copied)


def _bytes(artifact: Artifact) -> int:
    size: Any = artifact.manifest["bytes"]
    return int(size)


def _identity(graph: Graph, halves: Halves, setting: Setting) -> dict[str, str]:
    """Return the digests of all that a search's results depend on, the budget aside."""
    fingerprint = json.dumps(dict(setting.device.fingerprint()), sort_keys=True)
    return {
        "model": content_digest(graph),
        "calibration": halves.digest,
        "profile": setting.profile.digest(),
        "protocol": setting.profile.protocol_digest(),
        "device": f"{setting.device.name} {hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}",
        "target": json.dumps({"target": setting.target.name, **setting.target.versions()}, sort_keys=True),
        "seed": str(setting.seed),
        "limits": f"{RANGE_SAMPLES} {MOST_SAMPLES}",
    }
