"""Where and how a search runs, and the digests of all that its results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compiler.compress.keep_branches import METHOD as BRANCHES
from compiler.compress.rounding import ROUNDING
from compiler.compress.structure import ORDER
from compiler.device import Device, DeviceProfile
from compiler.errors import UsageError
from compiler.ir.digest import content_digest
from compiler.ir.graph import Graph
from compiler.records import Metric
from compiler.search.budget import Budget
from compiler.search.events import Watch, unwatched
from compiler.search.experiments import MeasurementBudget
from compiler.search.label_gate import LabelGate
from compiler.search.space import PRECISION
from compiler.target import Target
from devices.database import MeasurementDatabase
from edgewright.search_lab import PERCENTILES
from edgewright.search_samples import Halves
from edgewright.stages import Progress, silent

MOST_SAMPLES = 128  # of each half, evaluated for a cost
RANGE_SAMPLES = 64  # of half A, read for int8 ranges
FIT_SAMPLES = 64  # of half A, which structural methods score and refit layers on
MOST_MEASUREMENTS = 32  # variants, where nothing else is asked for
INTEGER = "integer"
METHODS = (PRECISION, ROUNDING, BRANCHES, *(method.METHOD for method in ORDER))


@dataclass(frozen=True)
class Setting:
    """Where and how a search runs; `workers` is the number of lowering processes, 0 for none.

    `cost` is `kl`, `js` or `mse`, None for what the outputs suggest. `storage` is a database of Optuna's
    that shows the trials, `donor` a second merged model for stitching, `methods` the kinds of decisions,
    None for all. `elsewhere` is what plans changed on another device, `advice` what to tell the user about
    the calibration data, `watch` is told of each measurement.
    """

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
    limits: MeasurementBudget = field(default_factory=MeasurementBudget)
    percentile: str = "p50"
    max_bytes: int | None = None
    labels: LabelGate | None = None
    strategy: str = INTEGER
    storage: str | None = None
    cost: str | None = None
    donor: Graph | None = None
    methods: tuple[str, ...] | None = None
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    watch: Watch = unwatched

    def __post_init__(self) -> None:
        unknown = [m for m in self.methods or () if m not in METHODS]
        if unknown or self.methods == ():
            raise UsageError(f"no method {', '.join(unknown) or 'given'}; accepted: {', '.join(METHODS)}")
        if self.percentile not in PERCENTILES:
            raise UsageError(f"no percentile {self.percentile!r}; accepted: {', '.join(PERCENTILES)}")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UsageError(f"the program may take {self.max_bytes} bytes; give 1 at least")
        check_metric(self.budget, self.profile)

    def takes(self, method: str) -> bool:
        """Return whether decisions of a kind are to be taken."""
        return self.methods is None or method in self.methods


def check_metric(budget: Budget, profile: DeviceProfile) -> None:
    """Raise UsageError for a budget in time where instructions are counted, and the other way round."""
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


def identity(graph: Graph, halves: Halves, setting: Setting) -> dict[str, str]:
    """Return the digests of all that a search's results depend on, budgets and limits aside."""
    fingerprint = json.dumps(dict(setting.device.fingerprint()), sort_keys=True)
    return {
        "model": content_digest(graph),
        "calibration": halves.digest,
        "profile": setting.profile.digest(),
        "protocol": setting.profile.protocol_digest(),
        "device": f"{setting.device.name} {hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}",
        "target": json.dumps({"target": setting.target.name, **setting.target.versions()}, sort_keys=True),
        "seed": str(setting.seed),
        "limits": f"{RANGE_SAMPLES} {FIT_SAMPLES} {MOST_SAMPLES}",
        "cost": setting.cost or "",
        "methods": " ".join(METHODS if setting.methods is None else setting.methods),
        "labels": "" if setting.labels is None else _labels_digest(setting.labels),
        "donor": "" if setting.donor is None else content_digest(setting.donor),
    }


def _labels_digest(labels: LabelGate) -> str:
    total = hashlib.sha256(np.ascontiguousarray(labels.labels).tobytes())
    for call in labels.inputs:
        for tensor in call:
            total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
