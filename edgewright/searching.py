"""Search for the variant of a model that changes its outputs least within a latency budget.

    load -> merge -> offers of structural methods, and int8 ranges -> lower and measure the first variants
         -> costs -> solve -> measure the proposal -> tighten and solve again -> repair -> heal
         -> verified artifact

The loop is `compiler.search.loop`; everything it asks for is done in `edgewright.search_lab`, one search is
run by `edgewright.search_run` and several budgets from the same measurements by `edgewright.search_sweep`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compiler.device import DeviceProfile
from compiler.errors import UsageError
from compiler.search.budget import Budget, parse_budget
from compiler.search.calibration_selection import way
from compiler.search.events import Watch, unwatched
from compiler.search.experiments import MeasurementBudget
from compiler.target import Target
from devices import open_device
from devices.benchmark import check_expected
from devices.database import MeasurementDatabase
from edgewright.calibration_pool import halves_advice, selected
from edgewright.choosing import AUTO
from edgewright.latency import load_table
from edgewright.models import load_model
from edgewright.recipe import prior_of, resolve
from edgewright.search_labels import check_disjoint, labelled_pool, read_labels
from edgewright.search_lowering import default_workers
from edgewright.search_output import FRONT_SCHEMA, TRIED_SCHEMA, SearchResult
from edgewright.search_run import run_search
from edgewright.search_samples import halve, read_calibration
from edgewright.search_setting import INTEGER, MOST_MEASUREMENTS, Setting, check_metric
from edgewright.search_steps import counted
from edgewright.search_sweep import SweepResult, read_sweep, run_sweep
from edgewright.search_targets import DOCUMENT, FOLDER, Runtime, TargetsResult, run_targets
from edgewright.search_targets import SCHEMA as TARGETS_SCHEMA
from edgewright.search_warm_start import read_warm_start
from edgewright.stages import Prepared, Progress, canonicalise, merged, prepare, silent
from profiles import load_profile
from targets import get_target

ENOUGH_SELECTED = 500  # samples, where they are chosen out of a pool


def search(
    model: str | torch.nn.Module | torch.export.ExportedProgram,
    *,
    latency_budget: str | None = None,
    sweep: str | None = None,
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
    watch: Watch = unwatched,
    limits: MeasurementBudget | None = None,
    percentile: str = "p50",
    max_bytes: int | None = None,
    labels: Any = None,
    max_accuracy_drop: float = 0.01,
    strategy: str = INTEGER,
    storage: str | None = None,
    cost: str | None = None,
    donor: str | torch.nn.Module | None = None,
    methods: Sequence[str] | None = None,
    calibration_select: str | None = None,
    calibration_samples: int = ENOUGH_SELECTED,
    warm_start: str | Path | None = None,
) -> SearchResult | SweepResult | TargetsResult:
    """Return the variant of a model that moves its outputs least and meets a latency budget on a device.

    Where `calibrate` has measured kernels of the device into `database`, they decide what is merged;
    `compile` replays such a plan with the same device and database.

    Args:
        model: a module in eval mode, an exported program, or a text such as `timm:mobilenetv2_100`.
        latency_budget: `12ms`, `800us`, `3.2Minsn` (emulated), or `0.7x` of the merged float model as
            measured beside it.
        sweep: several budgets in its place, `0.8x,0.6x`: a folder for each in `out`, and their front.
        calibration: unlabelled batches: `data.py:batches`, or an iterable of tensors or of tuples of
            them. One half chooses, the other judges the choice.
        profile: the name of a device profile, its TOML file, or a profile.
        device: `local`, or a device from `edgewright devices`.
        out: the folder to write: `artifact/`, `plan.txt`, `plan.json`, `tried.md`, `tried.json`.
        target: the runtime, the profile's first one by default; `auto` searches on each of the profile's and
            keeps the best (`edgewright.search_targets`).
        inputs: example inputs, as `compile` takes them.
        randomize: a seed for weights that make merging non-trivial (`edgewright.models.randomize`).
        database: where raw samples are kept: a path, a URL or an open database; by default a file in
            `out`, so that an interrupted measurement goes on.
        resume: go on where an interrupted search of the same model, data and device stopped.
        seed: decides the halves and the bootstrap.
        workers: processes that lower variants side by side; one for each processor by default.
        wait_s: how long to wait for a device that is in use, in seconds; as long as it takes by default.
        progress: called with what is being done.
        watch: called with what was found (`compiler.search.events`).
        limits: how much may be measured; `MOST_MEASUREMENTS` variants by default.
        percentile: `p50` or `p90`: whose upper confidence bound has to be within the budget.
        max_bytes: the most the program's files may take.
        labels: labelled batches on none of the calibration samples, `data.py:labelled` or an iterable of
            (inputs, labels): a gate on the winner, not a guide to it.
        max_accuracy_drop: the most accuracy a labelled winner may lose, as a share.
        strategy: `integer`, or another of `compiler.search.strategies`.
        storage: a database of Optuna's that shows the trials while they come.
        cost: `kl`, `js` or `mse`; by default what the outputs suggest.
        donor: a second model of the same family, whose parts may be stitched in.
        methods: the kinds of decisions to take, of `edgewright.search_setting.METHODS`; all by default.
        calibration_select: how to choose samples where `calibration` is a larger pool, of
            `compiler.search.selection`; all samples are taken by default. For `el2n` its batches are
            (inputs, labels).
        calibration_samples: how many to choose.
        warm_start: the folder of an earlier search of this model on another device: what saved time there
            is measured first.

    Raises:
        UsageError: something given cannot be read, or `out` cannot be written.
        UnsupportedModelError: the model cannot be exported, lowered or quantized.
        NumericError: the built program does not compute what the chosen graph computes.
        DeviceError: the device is missing, lost, in use, or not the one the profile expects.
        InfeasibleBudgetError: nothing meets the budget; names the least latency measured.
        UnstableMeasurementError: the device gives no steady reading.
    """
    budgets = _budgets(latency_budget, sweep)
    runtimes, found = _runtimes(profile, target, sweep, warm_start)
    runtime = runtimes[0]
    for budget in budgets:
        check_metric(budget, found)
    folder = Path(out)
    check_out(folder)
    batches = read_calibration(calibration)
    measured_on = open_device(device)
    check_expected(found, measured_on.fingerprint())  # not after minutes of lowering
    setting = Setting(
        runtime,
        found,
        measured_on,
        budgets[0],
        folder,
        database if database is not None else folder / "measurements.db",
        resume,
        seed,
        default_workers() if workers is None else workers,
        progress,
        wait_s,
        limits or MeasurementBudget(MOST_MEASUREMENTS),
        percentile,
        max_bytes,
        strategy=strategy,
        storage=storage,
        cost=cost,
        methods=None if methods is None else tuple(methods),
        watch=watch,
    )
    progress("load")
    loaded = load_model(model, inputs, randomize=randomize)
    source = canonicalise(loaded, progress=progress)
    prepared = _merged(source, setting)
    gate = None if labels is None else read_labels(prepared.graph, labels, max_accuracy_drop)
    elsewhere = {} if warm_start is None else read_warm_start(warm_start, prepared.graph)
    other = None if donor is None else prepare(load_model(donor, inputs), progress).graph
    advice: tuple[str | None, ...] = ()
    if calibration_select is not None:
        tell = counted(progress, "select")
        labelled = way(calibration_select).LABELLED
        pool, classes = labelled_pool(batches) if labelled else (batches, None)
        count = calibration_samples
        chosen = selected(pool, prepared.graph, calibration_select, count, seed, classes, tell)
        batches, advice = list(chosen.batches), (chosen.advice,)
    halves = halve(prepared.graph, batches, seed)
    if gate is not None:
        check_disjoint(gate, halves)
    advice = (*advice, halves_advice(prepared.graph, halves))
    setting = replace(
        setting, labels=gate, donor=other, elsewhere=elsewhere, advice=tuple(filter(None, advice))
    )
    if target == AUTO:
        each = _on_each(runtimes, source, prepared, setting)
        return run_targets(each, halves, budgets[0], folder)
    if sweep is None:
        return run_search(prepared, halves, setting)
    return run_sweep(prepared, halves, setting, budgets)


def _runtimes(
    profile: str | DeviceProfile, target: str | None, sweep: str | None, warm_start: str | Path | None
) -> tuple[tuple[Target, ...], DeviceProfile]:
    """Return the runtimes to search on, one or all that are installed, and the profile."""
    if target != AUTO:
        runtime, found = resolve(profile, target)
        return (runtime,), found
    alone = [name for name, value in (("--sweep", sweep), ("--warm-start", warm_start)) if value is not None]
    if alone:
        raise UsageError(f"{alone[0]} is of one target: name it in place of --target auto")
    found = load_profile(profile) if isinstance(profile, str) else profile
    missing = {name: get_target(name).installed() for name in found.targets}
    if all(missing.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise UsageError(f"no target of the profile {found.name!r} is installed: {reasons}")
    return tuple(get_target(name) for name, reason in missing.items() if reason is None), found


def _on_each(
    runtimes: Sequence[Target], source: Prepared, prepared: Prepared, setting: Setting
) -> tuple[Runtime, ...]:
    """Return the search on each runtime, with the canonical model merged for it; for the first it is."""
    own = [replace(setting, target=t, out=setting.out / FOLDER / t.name) for t in runtimes]
    others = [Runtime(_merged(source, s), s) for s in own[1:]]
    return (Runtime(prepared, own[0]), *others)


def _merged(source: Prepared, setting: Setting) -> Prepared:
    """Return the canonical model merged by what was measured on the device, or else the prior."""
    database, table = setting.database, None
    if isinstance(database, MeasurementDatabase) or "://" in str(database) or Path(database).exists():
        table = load_table(database, setting.profile, setting.target.name, setting.device)
    return merged(source, table, progress=setting.progress, prior=prior_of(setting.target))


def _budgets(latency_budget: str | None, sweep: str | None) -> tuple[Budget, ...]:
    if (latency_budget is None) == (sweep is None):
        raise UsageError("give either one --latency-budget, 12ms or 0.7x, or several as --sweep 0.8x,0.6x")
    return read_sweep(sweep) if sweep is not None else (parse_budget(latency_budget or ""),)


def check_out(out: Path) -> None:
    """Raise UsageError where `out` holds something other than a search's results or work."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder to write the search to")
    if (
        out.is_dir()
        and any(out.iterdir())
        and not (
            _is_result(out) or any((out / part / "journal.jsonl").is_file() for part in ("work", FOLDER))
        )
    ):
        raise UsageError(f"{out} holds files that no search wrote; give an empty or a new folder")


def _is_result(out: Path) -> bool:
    schemas = {"tried.json": TRIED_SCHEMA, "front.json": FRONT_SCHEMA, DOCUMENT: TARGETS_SCHEMA}
    return any(_schema(out / name) == schema for name, schema in schemas.items())


def _schema(path: Path) -> object:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document.get("schema") if isinstance(document, dict) else None
