"""`--target auto`: build for every runtime of the profile, measure them interleaved, keep the fastest.

Only what verified is measured. A program of several methods counts by the sum of their medians. The
artifact kept holds the table of all under `compared`, in the order of their latency. What gives no
steady reading, twice over, cannot win: it stands behind the others, marked as such.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.device import DeviceProfile
from compiler.errors import EdgewrightError, UnstableMeasurementError, UnsupportedModelError
from compiler.records import Artifact, Measurement
from devices import open_device
from devices.benchmark import Candidate, measure
from devices.benchmark import Progress as Event
from devices.database import MeasurementDatabase
from edgewright.artifact import MANIFEST, building, check_replaceable, write_json
from edgewright.profiling import UNITS, candidate, told, tuned, tuned_kernels
from edgewright.stages import Progress
from targets import get_target

AUTO = "auto"
Attempt = Callable[[str, Path], Artifact]


def choose(
    attempt: Attempt,
    profile: DeviceProfile,
    out: Path,
    device: str,
    database: str | Path | MeasurementDatabase,
    progress: Progress,
) -> Artifact:
    """Build by `attempt(target name, folder)` for each target of the profile and keep the fastest at `out`.

    Raises UnsupportedModelError with the reason of each target where none builds and verifies, and
    what measuring raises; UnstableMeasurementError where no reading is steady enough to decide on.
    """
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.edgewright-", dir=out.parent) as work:
        built, rows = _build(attempt, profile, Path(work), progress)
        if not built:
            reasons = "; ".join(f"{row['target']}: {row['reason']}" for row in rows)
            raise UnsupportedModelError(f"no target of the profile {profile.name!r} builds it: {reasons}")
        rows = _ranked(built, profile, device, database, progress) + rows
        best = built[str(rows[0]["target"])]
        manifest = {**best.manifest, "compared": rows}
        with building(out) as folder:
            shutil.copytree(best.folder, folder, dirs_exist_ok=True)
            write_json(folder / MANIFEST, manifest)
    return Artifact(out, manifest)


def _build(
    attempt: Attempt, profile: DeviceProfile, work: Path, progress: Progress
) -> tuple[dict[str, Artifact], list[dict[str, Any]]]:
    """Return what verified, by target, and a row for each that did not, with its reason."""
    built: dict[str, Artifact] = {}
    rows: list[dict[str, Any]] = []
    for name in profile.targets:
        if missing := get_target(name).installed():
            rows.append({"target": name, "outcome": "not installed", "reason": missing})
            continue
        progress(f"target {name}")
        try:
            built[name] = attempt(name, work / name)
        except EdgewrightError as error:  # another target may take what this one cannot
            rows.append({"target": name, "outcome": type(error).__name__, "reason": str(error)})
    return built, rows


def _ranked(
    built: Mapping[str, Artifact],
    profile: DeviceProfile,
    device: str,
    database: str | Path | MeasurementDatabase,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return the rows of what was measured, fastest first, those without a steady reading behind."""
    rows = _measured(built, profile, device, database, progress)
    if not all(row["stable"] for row in rows):
        progress("some readings are not steady: measure again")
        rows = _measured(built, profile, device, database, progress)
    if not any(row["stable"] for row in rows):
        raise UnstableMeasurementError(
            f"no target's reading on {device} is steady enough to choose by: {', '.join(built)} were built "
            f"and measured twice. Quieten the device, raise [protocol] max_seconds in the profile, or name "
            f"the target"
        )
    return sorted(rows, key=lambda row: (not row["stable"], _latency(row)))


def _measured(
    built: Mapping[str, Artifact],
    profile: DeviceProfile,
    device: str,
    database: str | Path | MeasurementDatabase,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return a row for each artifact, measured method by method in one interleaved run."""
    keys = [(name, entry["name"]) for name, a in built.items() for entry in _methods(a)]
    candidates = [candidate(built[n], get_target(n), profile, f"{n} {m}", m) for n, m in keys]

    def tell(event: Event) -> None:
        progress(told(event))

    if isinstance(database, MeasurementDatabase):
        found = _run(candidates, profile, device, database, tell)
    else:
        with MeasurementDatabase(database) as opened:
            found = _run(candidates, profile, device, opened, tell)
    by_target: dict[str, list[Measurement]] = {}
    for (name, _), measurement in zip(keys, found, strict=True):
        by_target.setdefault(name, []).append(measurement)
    return [_row(name, measurements, built[name]) for name, measurements in by_target.items()]


def _run(
    candidates: Sequence[Candidate],
    profile: DeviceProfile,
    device: str,
    database: MeasurementDatabase,
    tell: Callable[[Event], None],
) -> list[Measurement]:
    return measure(candidates, open_device(device), profile, database, tell, open_runners=len(candidates))


def _row(name: str, measurements: Sequence[Measurement], artifact: Artifact) -> dict[str, Any]:
    unit = UNITS[measurements[0].metric]
    sums = {k: sum(getattr(m.statistics, k) for m in measurements) for k in ("median", "low", "high")}
    row = {"target": name, "outcome": "verified", **{f"{k}_{unit}": v for k, v in sums.items()}}
    row |= {"metric": measurements[0].metric.value, "device": measurements[0].device}
    label = tuned(artifact)
    return {
        **row,
        "stable": all(m.stable for m in measurements),
        **({} if label is None else {"tuned": label}),
        **tuned_kernels(artifact),
    }


def _latency(row: Mapping[str, Any]) -> float:
    return float(next(row[f"median_{unit}"] for unit in ("ns", "count") if f"median_{unit}" in row))


def _methods(artifact: Artifact) -> Sequence[Mapping[str, Any]]:
    entries: Any = artifact.manifest["methods"]
    return list(entries)
