"""Runs the cells of a network: searches in each way, then all variants measured interleaved and judged.

All searches on a network share one laboratory: the same samples, costs and programs, and what one of them
measured another is told again where it asks for the same run. Each counts what it asked for. A way's answer
is kept as `WAY.json` beside its search folder, a cell as `cell.json`; both are written whole, and what is
there is not done again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.cells.judge import OURS, UNIFORM, Cell, Entry
from benchmarks.trained import Trained
from benchmarks.trained.train import accuracy_of
from compiler.errors import InfeasibleBudgetError
from compiler.plan import Plan, parse_plan
from compiler.records import Artifact
from compiler.search.budget import Budget
from compiler.search.experiments import MeasurementBudget
from compiler.target import INT8

if TYPE_CHECKING:
    from edgewright.search_lab import Lab
    from edgewright.search_setting import Setting
    from edgewright.stages import Prepared

BUDGETS = (0.8, 0.6, 0.4)
STRATEGIES = {OURS: "integer", "NSGA-II": "nsga2", "TPE": "tpe", "random": "random"}


@dataclass(frozen=True)
class Place:
    """Where programs run: a device, the profile that says how, and the runtime."""

    device: str
    profile: str
    target: str

    @property
    def name(self) -> str:
        """A name for tables."""
        return f"{self.device}, {self.target}"

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return f"{Path(self.profile).stem}-{self.target}"


@dataclass(frozen=True)
class Answer:
    """What one way found: its plan, its artifact's folder, the upper bound it measured; or why nothing.

    `uniform` is the plan of uniform int8 and its own upper bound, where the search measured it.
    """

    evaluations: int | None
    reason: str = ""
    plan: str = ""
    artifact: str = ""
    searched: float = 0.0
    uniform: tuple[str, float] | None = None


@dataclass(frozen=True)
class Laboratory:
    """A network made ready to be searched, once for all ways and budgets."""

    network: Trained
    place: Place
    prepared: Prepared
    lab: Lab
    setting: Setting


def run_cells(network: Trained, budgets: Sequence[float], place: Place, work: Path) -> None:
    """Run the cells of a network that are not finished."""
    home = work / place.folder / network.name
    left = [b for b in budgets if not (home / f"{b:g}" / "cell.json").exists()]
    if not left:
        return
    write_json(work / place.folder / "place.json", asdict(place))
    with laboratory(network, place, home) as opened:
        for budget in left:
            _run_cell(opened, budget, home / f"{budget:g}", work)


@contextmanager
def laboratory(network: Trained, place: Place, home: Path) -> Iterator[Laboratory]:
    """Yield a network's laboratory, as `edgewright search` opens it by default; its work stays in `home`."""
    from devices import open_device
    from edgewright.models import load_model
    from edgewright.recipe import prior_of, resolve
    from edgewright.search_lowering import default_workers
    from edgewright.search_run import opened
    from edgewright.search_samples import halve, read_calibration
    from edgewright.search_setting import MOST_MEASUREMENTS, Setting
    from edgewright.stages import prepare

    target, profile = resolve(place.profile, place.target)
    loaded = load_model(network.module, network.example_inputs)
    prepared = prepare(loaded, prior=prior_of(target))
    halves = halve(prepared.graph, read_calibration(network.calibration), seed=0)
    setting = Setting(
        target,
        profile,
        open_device(place.device),
        Budget(ratio=1.0),
        home,
        home / "measurements.db",
        workers=default_workers(),
        progress=lambda message: tell(f"  {message}"),
        limits=MeasurementBudget(MOST_MEASUREMENTS),
    )
    with opened(prepared, halves, setting) as lab:
        yield Laboratory(network, place, prepared, lab, setting)


def _run_cell(opened: Laboratory, budget: float, folder: Path, work: Path) -> None:
    network, place = opened.network, opened.place
    ours = _answer(OURS, opened, budget, folder, None)
    answers = {OURS: ours, UNIFORM: _uniform(ours, network, place, folder)}
    for way in STRATEGIES:
        if way != OURS:
            answers[way] = _answer(way, opened, budget, folder, ours.evaluations)
    found = {way: answer for way, answer in answers.items() if not answer.reason}
    entries = judged(network, place, found, work) if found else {}
    refusals = {way: answer.reason for way, answer in answers.items() if answer.reason}
    float_accuracy = accuracy_of(network.module, network.test_inputs, network.test_labels)
    cell = Cell(network.name, place.name, budget, float_accuracy, entries, refusals)
    write_json(folder / "cell.json", cell.document())


def _answer(way: str, opened: Laboratory, budget: float, folder: Path, evaluations: int | None) -> Answer:
    """Search in one way, or read what it found; `evaluations` is the most that may be measured."""
    path = folder / f"{STRATEGIES[way]}.json"
    if not path.exists():
        tell(f"{opened.network.name} at {budget:g}x on {opened.place.name}: {way}")
        write_json(path, asdict(_searched(way, opened, budget, folder, evaluations)))
    found = json.loads(path.read_text())
    uniform = found.pop("uniform")
    return Answer(**found, uniform=None if uniform is None else tuple(uniform))


def _searched(way: str, opened: Laboratory, budget: float, folder: Path, evaluations: int | None) -> Answer:
    from edgewright.search_run import search_point

    setting = replace(
        opened.setting, budget=Budget(ratio=budget), out=folder / STRATEGIES[way], strategy=STRATEGIES[way]
    )
    if evaluations is not None:
        setting = replace(setting, limits=MeasurementBudget(evaluations, trials=evaluations))
    try:
        result = search_point(opened.prepared, opened.lab, setting, ())
    except InfeasibleBudgetError as error:
        return Answer(evaluations, str(error))
    trials, space = result.outcome.trials, result.space
    int8 = next((t for t in trials if t.choice == space.uniform(INT8) and not t.heals), None)
    return Answer(
        evaluations=sum(1 for t in trials if any(t.choice)),
        plan=result.plan.text(),
        artifact=str(result.artifact.folder),
        searched=result.outcome.winner.reading.ratio_high,
        uniform=None if int8 is None else (space.plan(int8.choice).text(), int8.reading.ratio_high),
    )


def _uniform(ours: Answer, network: Trained, place: Place, folder: Path) -> Answer:
    """Return everything that can be int8 in int8, as our search measured it."""
    if ours.uniform is None:
        return Answer(None, "our search did not measure it")
    plan, searched = ours.uniform
    built(network, place, plan, folder / "uniform")
    return Answer(1, plan=plan, artifact=str(folder / "uniform"), searched=searched)


def built(network: Trained, place: Place, plan: str, folder: Path) -> Artifact:
    """Return the artifact of a plan, compiled where it is not there; an empty plan is the float program."""
    from edgewright import compile
    from edgewright.artifact import is_ours, read_artifact

    if is_ours(folder):
        return read_artifact(folder)
    tell(f"building {folder}")
    return compile(
        network.module,
        place.profile,
        place.target,
        parse_plan(plan) if plan else Plan(),
        network.example_inputs,
        folder,
        calibration=network.calibration if plan else (),
    )


def judged(network: Trained, place: Place, found: Mapping[str, Answer], work: Path) -> dict[str, Entry]:
    """Measure the variants interleaved with the float program, and run them on the held-out samples."""
    from edgewright.artifact import read_artifact

    home = work / place.folder / network.name
    base = built(network, place, "", home / "float32")
    artifacts = {way: read_artifact(Path(answer.artifact)) for way, answer in found.items()}
    readings = paired([base, *artifacts.values()], place, work)
    reference = outputs_of_module(network)
    entries = {}
    for (way, artifact), reading in zip(artifacts.items(), readings, strict=True):
        accuracy, divergences = held_out(network, place, artifact, reference)
        answer = found[way]
        found_by = (answer.evaluations or 0, answer.plan)
        entries[way] = Entry(*reading, answer.searched, accuracy, divergences, *found_by)
    return entries


def paired(artifacts: Sequence[Artifact], place: Place, work: Path) -> list[tuple[float, float, float]]:
    """Return the time of each artifact but the first over the first's, with its 95% interval."""
    from devices import open_device
    from devices.benchmark import measure
    from devices.statistics import ratio
    from edgewright.measuring import exclusive
    from edgewright.profiling import candidate
    from edgewright.recipe import resolve

    target, profile = resolve(place.profile, place.target)
    candidates = [candidate(a, target, profile, str(a.folder)) for a in artifacts]
    device = open_device(place.device)
    with exclusive(device, work / "measurements.db", None, tell) as database:
        runs = measure(candidates, device, profile, database)
    ratios = [ratio(run.rounds, runs[0].rounds) for run in runs[1:]]
    return [(r.value, r.low, r.high) for r in ratios]


def outputs_of_module(network: Trained) -> torch.Tensor:
    """Return the float model's logits on the held-out samples, float64[N, classes]."""
    with torch.no_grad():
        return torch.cat([network.module(part) for part in torch.split(network.test_inputs, 64)]).double()


def held_out(
    network: Trained, place: Place, artifact: Artifact, reference: torch.Tensor
) -> tuple[float, tuple[float, ...]]:
    """Return a variant's accuracy in its own runtime, and each sample's divergence from the reference."""
    from edgewright.recipe import resolve
    from edgewright.runtime import infer

    target, profile = resolve(place.profile, place.target)
    calls = [(sample,) for sample in torch.split(network.test_inputs, 1)]
    logits = torch.cat([out[0] for out in infer(artifact, target, profile, calls)]).double()
    log_p, log_q = reference.log_softmax(1), logits.log_softmax(1)
    divergences = (log_p.exp() * (log_p - log_q)).sum(1).clamp_min(0)
    accuracy = float((logits.argmax(1) == network.test_labels).double().mean())
    return accuracy, tuple(divergences.tolist())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(partial, path)


def tell(message: str) -> None:
    """Say on stderr what happens."""
    print(message, file=sys.stderr, flush=True)
