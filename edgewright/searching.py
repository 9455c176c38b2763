"""Search for the variant of a model that changes its outputs least within a latency budget.

    load -> merge -> offers of structural methods, and int8 ranges -> lower and measure the first variants
         -> costs -> solve -> measure the proposal -> tighten and solve again -> repair -> heal
         -> verified artifact

The loop is `compiler.search.loop`; everything it asks for is done in `edgewright.search_lab`. While it runs,
the work lies in OUT/work with a journal of finished results: the same command run again goes on where
it stopped, and a changed model, calibration, profile, device or runtime starts afresh. Several budgets
are searched from the same measurements (`edgewright.search_sweep`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compiler.compress.decision import Setting as StructureSetting
from compiler.compress.segments import segments
from compiler.compress.structure import structure_offers
from compiler.device import DeviceProfile
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from compiler.search.journal import Journal
from compiler.search.loop import first_run, search_loop
from compiler.search.output_cost import cost_kind
from compiler.search.trial import Outcome, Trial
from devices import open_device
from devices.database import MeasurementDatabase
from edgewright.compilation import assemble
from edgewright.measuring import exclusive
from edgewright.models import load_model
from edgewright.recipe import Recipe, prior_of, resolve
from edgewright.search_costs import CostReader
from edgewright.search_healing import heal_winner
from edgewright.search_lab import Lab
from edgewright.search_labels import check_disjoint, read_labels
from edgewright.search_lowering import VariantStore, default_workers
from edgewright.search_output import FRONT_SCHEMA, TRIED_SCHEMA, Row, SearchResult, write_documents
from edgewright.search_samples import Halves, halve, read_calibration
from edgewright.search_setting import INTEGER, MOST_SAMPLES, RANGE_SAMPLES, Setting, check_metric, identity
from edgewright.search_space import make_space
from edgewright.search_structures import Structures
from edgewright.stages import Method, Prepared, Progress, Stage, prepare, silent


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
    limits: MeasurementBudget | None = None,
    percentile: str = "p50",
    max_bytes: int | None = None,
    labels: Any = None,
    max_accuracy_drop: float = 0.01,
    strategy: str = INTEGER,
    storage: str | None = None,
    cost: str | None = None,
    donor: str | torch.nn.Module | None = None,
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
        limits: how much may be measured; as much as it takes by default.
        percentile: `p50` or `p90`: whose upper confidence bound has to be within the budget.
        max_bytes: the most the program's files may take.
        labels: labelled batches on none of the calibration samples, `data.py:labelled` or an iterable of
            (inputs, labels): a gate on the winner, not a guide to it.
        max_accuracy_drop: the most accuracy a labelled winner may lose, as a share.
        strategy: `integer`, or another of `compiler.search.strategies`.
        storage: a database of Optuna's that shows the trials while they come.
        cost: `kl`, `js` or `mse`; by default what the outputs suggest.
        donor: a second model of the same family, whose parts may be stitched in.

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
    check_metric(budget, found)
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
        limits or MeasurementBudget(),
        percentile,
        max_bytes,
        strategy=strategy,
        storage=storage,
        cost=cost,
    )
    progress("load")
    loaded = load_model(model, inputs, randomize=randomize)
    prepared = prepare(loaded, progress, prior=prior_of(chosen))
    gate = None if labels is None else read_labels(prepared.graph, labels, max_accuracy_drop)
    other = None if donor is None else prepare(load_model(donor, inputs), progress).graph
    halves = halve(prepared.graph, batches, seed)
    if gate is not None:
        check_disjoint(gate, halves)
    return run_search(prepared, halves, replace(setting, labels=gate, donor=other))


def run_search(prepared: Prepared, halves: Halves, setting: Setting) -> SearchResult:
    """Search on a prepared model with samples in two halves."""
    with opened(prepared, halves, setting) as lab:
        result = search_point(prepared, lab, setting, ())
    shutil.rmtree(setting.out / "work")
    return result


@contextmanager
def opened(prepared: Prepared, halves: Halves, setting: Setting) -> Iterator[Lab]:
    """Yield the lab of a search, its device taken and its work kept in OUT/work."""
    work, known = setting.out / "work", identity(prepared.graph, halves, setting)
    work.mkdir(parents=True, exist_ok=True)
    journal = Journal(work / "journal.jsonl", known, setting.resume)
    if not len(journal):  # of another model, or of a search not to be resumed
        for made in ("variants", "structures"):
            shutil.rmtree(work / made, ignore_errors=True)
    with ExitStack() as stack:
        structures = _structures(prepared.graph, halves, journal, setting)
        prior = prior_of(setting.target)
        offers = structure_offers(prepared.graph, structures.setting)
        store = VariantStore(work / "variants", setting.target, setting.profile, setting.workers)
        ours = exclusive(setting.device, setting.database, setting.wait_s, setting.progress)
        kind = cost_kind(prepared.graph, setting.cost)
        yield Lab(
            space=make_space(structures.segments, structures.calibrated(), offers, prior),
            structures=structures,
            costs=CostReader(prepared.graph, kind, setting.progress),
            prior=prior,
            halves=halves,
            target=setting.target,
            profile=setting.profile,
            device=setting.device,
            database=stack.enter_context(ours),
            journal=journal,
            store=stack.enter_context(store),
            seed=setting.seed,
            progress=setting.progress,
            most_samples=MOST_SAMPLES,
            identity=json.dumps(known, sort_keys=True),
            paired=setting.budget.ratio is not None,
            percentile=setting.percentile,
            labels=setting.labels,
            sized=setting.max_bytes is not None,
        )


def search_point(prepared: Prepared, lab: Lab, setting: Setting, known: Sequence[Trial]) -> SearchResult:
    """Search for one budget and write what comes of it; `known` was measured for others."""
    outcome = _loop(lab, setting, known)
    outcome = heal_winner(lab, outcome, setting.budget, _most_bytes(setting))
    return _finish(prepared, lab, outcome, setting)


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
    schemas = {"tried.json": TRIED_SCHEMA, "front.json": FRONT_SCHEMA}
    return any(_schema(out / name) == schema for name, schema in schemas.items())


def _schema(path: Path) -> object:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document.get("schema") if isinstance(document, dict) else None


def _structures(graph: Graph, halves: Halves, journal: Journal, setting: Setting) -> Structures:
    seen = halves.seen
    return Structures(
        graph=graph,
        segments=segments(graph),
        quantizers=setting.target.quantizer,
        samples=seen[:RANGE_SAMPLES],
        setting=StructureSetting(seen[:MOST_SAMPLES], donor=setting.donor),
        journal=journal,
        folder=setting.out / "work" / "structures",
        progress=setting.progress,
    )


def _most_bytes(setting: Setting) -> float:
    return math.inf if setting.max_bytes is None else float(setting.max_bytes)


def _loop(lab: Lab, setting: Setting, known: Sequence[Trial]) -> Outcome:
    space, budget = lab.space, setting.budget
    alone = [c for c in first_run(space, budget) if not space.structural(c)]
    lab.prepare(alone[: len(alone) if setting.limits.measurements is None else 1], costs=not known)
    return search_loop(
        space,
        budget,
        lab.experiments(),
        setting.limits,
        most_bytes=_most_bytes(setting),
        known=known,
        note=setting.progress,
    )


def _finish(prepared: Prepared, lab: Lab, outcome: Outcome, setting: Setting) -> SearchResult:
    """Judge the winner on the unseen half, verify and write it, and write the tables."""
    winner = outcome.winner
    plan = lab.plan(winner.choice, winner.heals)
    unseen = lab.unseen_cost(winner.choice, winner.heals) if any(winner.choice) else None
    artifact = _assemble(prepared, lab, winner, plan, setting)
    rows = [Row(lab.label(t.choice, t.heals), t, lab.size(t.choice, t.heals)) for t in outcome.trials]
    result = SearchResult(
        folder=setting.out,
        artifact=artifact,
        plan=plan,
        model=prepared.model.spec,
        budget=setting.budget,
        space=lab.space,
        outcome=outcome,
        rows=tuple(rows),
        kind=lab.costs.kind,
        unseen=unseen,
        digests=json.loads(lab.identity),
        advice=tuple(filter(None, [lab.halves.advice])),
    )
    write_documents(result)
    return result


def _assemble(prepared: Prepared, lab: Lab, winner: Trial, plan: Plan, setting: Setting) -> Artifact:
    """Make the winner a verified artifact folder, from the very files that were measured."""
    variant = lab.artifact(winner.choice, winner.heals)

    def copied(methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Any:
        lowered = lab.store.lowered(variant)
        for name in lowered.files:
            shutil.copyfile(variant.folder / name, folder / name)
        return lowered

    graph = lab.graph(winner.choice, winner.heals)
    stage = None if graph is prepared.graph else Stage("compress", graph, 0.0)
    recipe = Recipe(setting.target, setting.profile, plan)
    methods = [Method(prepared, stage)]
    return assemble(methods, recipe, setting.out / "artifact", setting.progress, copied)
