"""Tune the kernels of a model on a device, and give a compile the schedules found.

The trials are shared among the model's kernels by the operations that it spends in each. Every batch
that was measured is kept in the measurement database: a tuning that was interrupted goes on where it
stopped, and one that is done is found again without measuring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compiler.device import Device, DeviceProfile
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.target import Target
from compiler.tuning import Trial, Tunable, TunableKernel, Tuner, best, shares
from devices import open_device
from devices.benchmark import check_expected
from devices.database import MeasurementDatabase
from devices.schedules import record_trials, recorded_trials, schedule_conditions
from edgewright.latency import load_table
from edgewright.measuring import exclusive, opened
from edgewright.models import load_model
from edgewright.profiling import UNITS
from edgewright.recipe import prior_of, resolve
from edgewright.schedule_runs import ScheduleBench
from edgewright.stages import Progress, prepare, silent
from profiles import load_profile
from targets import get_target

SCHEMA = "edgewright.tuning/1"
TRIALS = 64


@dataclass(frozen=True)
class TunedKernel:
    """A kernel, its share of the trials, how many of them were measured now, and all trials there are."""

    kernel: TunableKernel
    share: int
    measured: int
    trials: tuple[Trial, ...]

    def document(self, unit: str) -> dict[str, Any]:
        """Return the kernel as JSON values; `default_*` was read beside the best trial, or else the last."""
        found = best(self.trials)
        beside = found or (self.trials[-1] if self.trials else None)
        return {
            "kernel": self.kernel.name,
            "key": self.kernel.key,
            "calls": self.kernel.calls,
            "operations": self.kernel.operations,
            "share": self.share,
            "measured": self.measured,
            "trials": len(self.trials),
            "failed": sum(t.latency is None for t in self.trials),
            f"best_{unit}": found and found.latency,
            f"default_{unit}": beside and beside.baseline,
            "speedup": found and found.ratio and 1 / found.ratio,
        }


@dataclass(frozen=True)
class Tuning:
    """What a tuning found; `refused` holds the kernels that cannot be tuned, with the reason."""

    device: str
    target: str
    metric: str
    seed: int
    kernels: tuple[TunedKernel, ...]
    refused: dict[str, str]

    def document(self) -> dict[str, Any]:
        """Return the tuning as JSON values; latencies carry their unit in the field's name."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "target": self.target,
            "metric": self.metric,
            "seed": self.seed,
            "measured": sum(k.measured for k in self.kernels),
            "tuned_kernels": sum(best(k.trials) is not None for k in self.kernels),
            "kernels": [k.document(UNITS[self.metric]) for k in self.kernels],
            "refused": [{"kernel": name, "reason": reason} for name, reason in self.refused.items()],
        }


def tune(
    model: str | torch.nn.Module | torch.export.ExportedProgram,
    profile: str | DeviceProfile = "host",
    device: str | Device = "local",
    target: str | None = None,
    inputs: Any = None,
    *,
    trials: int = TRIALS,
    seed: int = 0,
    database: str | Path | MeasurementDatabase = "sqlite://",
    randomize: int | None = None,
    wait_s: float | None = None,
    progress: Progress = silent,
) -> Tuning:
    """Try schedules for the kernels of a model on a device and keep what they took.

    Args:
        model: as `compile` takes it.
        profile: how to run: the name of a device profile, its TOML file, or a profile.
        device: `local`, or a device from `edgewright devices`.
        target: the runtime; the profile's first one that can be tuned by default.
        inputs: example inputs, as `compile` takes them.
        trials: how many schedules to try, over all kernels; those tried before under the same seed count.
        seed: of the search: another one looks elsewhere.
        database: where trials are kept, and where `compile` finds them: a path, an SQLAlchemy URL, an
            open database, or `sqlite://` (the default) to keep nothing.
        randomize: a seed for weights that make merging non-trivial, as `compile` takes it.
        wait_s: how long to wait for a device that is in use, in seconds; as long as it takes by default.
        progress: called with the name of each step.

    Raises:
        UsageError: something given cannot be read, or the target has nothing to tune.
        UnsupportedModelError: the model cannot be exported or lowered.
        DeviceError: the device is missing, lost, in use, or not the one the profile expects.
    """
    if trials < 1:
        raise UsageError(f"{trials} trials are no budget: give at least 1")
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    found, chosen = resolve(chosen, target or _first_tunable(chosen))
    _tunable(found)
    ours = open_device(device) if isinstance(device, str) else device
    check_expected(chosen, ours.fingerprint())
    progress("load")
    loaded = load_model(model, inputs, randomize=randomize)
    with exclusive(ours, database, wait_s, progress) as kept:
        table = load_table(kept, chosen, found.name, ours)
        graph = prepare(loaded, progress, table, prior_of(found)).graph
        tuned, refused = tune_graph(graph, found, ours, chosen, kept, trials, seed, progress)
    return Tuning(ours.name, found.name, chosen.protocol.metric.value, seed, tuned, refused)


def tune_graph(
    graph: Graph,
    target: Target,
    device: Device,
    profile: DeviceProfile,
    database: MeasurementDatabase,
    trials: int,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[tuple[TunedKernel, ...], dict[str, str]]:
    """Tune the kernels of a graph that is ready to be lowered; return them, and those refused."""
    progress(f"kernels of {target.name}")
    tuner = _tunable(target).tuner(graph, profile)
    parts = shares([kernel.weight for kernel in tuner.kernels], trials)
    run = _Run(target, device, profile, database, seed, progress)
    return tuple(run.tune(tuner, k, n) for k, n in zip(tuner.kernels, parts, strict=True)), dict(
        tuner.refused
    )


@dataclass(frozen=True)
class _Run:
    target: Target
    device: Device
    profile: DeviceProfile
    database: MeasurementDatabase
    seed: int
    progress: Progress

    def tune(self, tuner: Tuner, kernel: TunableKernel, share: int) -> TunedKernel:
        """Tune one kernel; each batch is kept as soon as it is measured."""
        conditions = conditions_of(self.target, self.device, self.profile)
        trials = recorded_trials(self.database, conditions).get(kernel.key, [])
        known = len(trials)
        bench = ScheduleBench(kernel.key, self.target.name, self.device, self.profile, self.database)
        self.progress(f"{kernel.name}: {share} trials")
        for batch in tuner.tune(kernel, share, self.seed, tuple(trials), bench):
            record_trials(self.database, kernel.key, conditions, self.device.name, batch)
            trials += batch
            found = best(trials)
            gain = f", {1 / found.ratio:.3g} times the default" if found and found.ratio else ""
            self.progress(f"{kernel.name}: {len(trials) - known} of {share} measured{gain}")
        return TunedKernel(kernel, share, len(trials) - known, tuple(trials))


def conditions_of(target: Target, device: Device, profile: DeviceProfile) -> dict[str, object]:
    """Return the conditions under which schedules for a target are measured now."""
    versions = {"target": target.name, **target.versions()}
    return schedule_conditions(device, profile, versions, _tunable(target).processor(profile))


def load_schedules(
    database: str | Path | MeasurementDatabase,
    profile: str | DeviceProfile = "host",
    device: str | Device = "local",
) -> Callable[[Target], Target]:
    """Return what gives a target the best schedules measured on a device; others stay as they are.

    Nothing is measured; `tune` does that. The function raises UsageError for an unknown profile or
    database, DeviceError for a missing device.
    """

    def equip(target: Target) -> Target:
        if not isinstance(target, Tunable):
            return target
        chosen = load_profile(profile) if isinstance(profile, str) else profile
        chosen_device = open_device(device) if isinstance(device, str) else device
        with opened(database) as kept:
            trials = recorded_trials(kept, conditions_of(target, chosen_device, chosen))
        found = {key: best(tried) for key, tried in trials.items()}
        return target.scheduled({key: trial.schedule for key, trial in found.items() if trial})

    return equip


def _first_tunable(profile: DeviceProfile) -> str:
    names = [name for name in profile.targets if isinstance(get_target(name), Tunable)]
    if not names:
        raise UsageError(
            f"no target of the profile {profile.name!r} can be tuned: {', '.join(profile.targets)}"
        )
    return names[0]


def _tunable(target: Target) -> Tunable:
    if not isinstance(target, Tunable):
        raise UsageError(f"the target {target.name!r} has kernels of its own and nothing to tune")
    return target
