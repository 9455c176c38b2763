"""Measure an artifact on a device, with every raw sample kept in the measurement database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.device import Device, DeviceProfile
from compiler.errors import UnstableMeasurementError
from compiler.records import Artifact, Measurement
from compiler.target import FORWARD, Target
from devices import open_device
from devices.benchmark import Candidate, measure
from devices.benchmark import Progress as Event
from devices.database import MeasurementDatabase
from edgewright.artifact import method_entry, read_artifact
from edgewright.limits import Limits, limited, on_cluster
from edgewright.recipe import resolve
from edgewright.stages import Progress, silent

SCHEMA = "edgewright.measurement/1"
UNITS = {"wall": "ns", "cpu": "ns", "instructions": "count"}


def profile(
    artifact: Artifact | str | Path,
    device: str = "local",
    *,
    profile: str | DeviceProfile | None = None,
    method: str | None = None,
    database: str | Path | MeasurementDatabase = "sqlite://",
    allow_unstable: bool = False,
    reuse: bool = False,
    limits: Limits | None = None,
    cluster: str | None = None,
    skip_preflight: bool = False,
    progress: Progress = silent,
) -> Measurement:
    """Measure an artifact's latency on a device.

    Args:
        artifact: what `compile` returned, or its folder.
        device: `local`, or a device from `edgewright devices`.
        profile: how to run; the profile the artifact was compiled for by default.
        method: which method of the program to run; its first one by default.
        database: where raw samples are kept: a path, an SQLAlchemy URL, an open database, or
            `sqlite://` (the default) to keep nothing. An interrupted measurement goes on where it stopped.
        allow_unstable: return an unsteady reading, marked as such, in place of raising.
        reuse: return the newest stable measurement of the same artifact and conditions, if any.
        limits: when to stop, in the place of what the profile says.
        cluster: the processors to run on, by the name the profile has for them.
        skip_preflight: measure a device that is not fit for it too; the reading says what was amiss.
        progress: called with what happens.

    Raises:
        UsageError: the folder is no artifact, it has no such method, the profile or database cannot be
            read, or the profile has no such cluster.
        DeviceError: the device is missing, lost, or not the one the profile expects.
        UnstableMeasurementError: the device is not fit to be measured, or the reading is not steady
            enough to decide on.
    """
    built = artifact if isinstance(artifact, Artifact) else read_artifact(artifact)
    target, found = resolve(profile or str(built.manifest["profile"]), str(built.manifest["target"]))
    found = on_cluster(limited(found, limits or Limits()), cluster)
    chosen = open_device(device)
    one = candidate(built, target, found, method=method)
    if isinstance(database, MeasurementDatabase):
        measurement = _measure(one, chosen, found, database, progress, reuse, skip_preflight)
    else:
        with MeasurementDatabase(database) as opened:
            measurement = _measure(one, chosen, found, opened, progress, reuse, skip_preflight)
    if not (measurement.stable or allow_unstable):
        raise _unstable(measurement)
    return measurement


def candidate(
    artifact: Artifact, target: Target, profile: DeviceProfile, label: str = "", method: str | None = None
) -> Candidate:
    """Return a method of an artifact as something to measure, its first one by default.

    `label` names it in progress, the model by default. Raises UsageError for a method there is not.
    """
    manifest: Any = artifact.manifest
    entry = method_entry(artifact, method)
    return Candidate(
        label=label or str(manifest["model"]),
        artifact_digest=artifact.digest,
        graph_digest=entry["graph_digest"],
        plan_digest=manifest["plan_digest"],
        spec=target.run_spec(artifact, profile, entry["name"]),
        plan=manifest["plan"],
        target={"target": target.name, "method": entry["name"], **manifest["versions"]},
    )


def measurement_document(
    measurement: Measurement, model: str = "", method: str = FORWARD, tuned: bool | None = None
) -> dict[str, Any]:
    """Return a measurement as JSON values; times carry their unit in the field's name.

    `tuned` is what the artifact's lowering says: false for code whose schedules nobody tuned, whose
    latency says little of the runtime's; None where the runtime brings kernels of its own.
    """
    unit = UNITS[measurement.metric]
    statistics = asdict(measurement.statistics)
    count = statistics.pop("count")
    return {
        "schema": SCHEMA,
        "model": model,
        "method": method,
        "device": measurement.device,
        "fingerprint": dict(measurement.fingerprint),
        "profile": measurement.profile,
        "metric": measurement.metric.value,
        "threads": measurement.threads,
        **({} if tuned is None else {"tuned": tuned}),
        "stable": measurement.stable,
        "throttled": measurement.throttled,
        "rounds": len(measurement.rounds),
        "samples": count,
        "throttled_rounds": sum(r.throttled for r in measurement.rounds),
        "noisy_rounds": sum(r.noisy for r in measurement.rounds),
        **{f"{name}_{unit}": value for name, value in statistics.items()},
        "interval_percent": 95,
        "load_ns": measurement.load_ns,
        "first_ns": measurement.first_ns,
        "peak_rss_bytes": measurement.peak_rss_bytes,
        "size_bytes": measurement.size_bytes,
        "affinity": list(measurement.rounds[-1].affinity) if measurement.rounds else [],
        "state_before": asdict(measurement.rounds[0].before) if measurement.rounds else None,
        "state_after": asdict(measurement.rounds[-1].after) if measurement.rounds else None,
        "incidents": list(measurement.incidents),
        "artifact_digest": measurement.artifact_digest,
        "graph_digest": measurement.graph_digest,
        "plan_digest": measurement.plan_digest,
        "profile_digest": measurement.profile_digest,
        "protocol_digest": measurement.protocol_digest,
    }


def _measure(
    one: Candidate,
    device: Device,
    profile: DeviceProfile,
    database: MeasurementDatabase,
    progress: Progress,
    reuse: bool,
    skip_preflight: bool,
) -> Measurement:
    def tell(event: Event) -> None:
        progress(told(event))

    return measure([one], device, profile, database, tell, reuse=reuse, skip_preflight=skip_preflight)[0]


def told(event: Event) -> str:
    """Return one line that says what happened."""
    if event.detail:
        return f"{event.event}: {event.detail}"
    so_far = f", median {event.statistics.median:.6g}" if event.statistics else ""
    return f"{event.event}: {event.rounds} rounds{so_far}"


def _unstable(measurement: Measurement) -> UnstableMeasurementError:
    statistics = measurement.statistics
    unit = UNITS[measurement.metric]
    return UnstableMeasurementError(
        f"the reading on {measurement.device} is not steady: median {statistics.median:.6g} {unit}, 95% "
        f"interval {statistics.low:.6g} to {statistics.high:.6g} over {len(measurement.rounds)} rounds, of "
        f"which {_marked(measurement)}. Quieten the device, give it more "
        f"--max-seconds and --max-rounds, or take it as it is with --allow-unstable"
    )


def _marked(measurement: Measurement) -> str:
    """Say how many rounds were marked, and for what."""
    throttled = sum(r.throttled for r in measurement.rounds)
    noisy = sum(r.noisy for r in measurement.rounds)
    return f"{throttled} were throttled and {noisy} disturbed"


def tuned(artifact: Artifact) -> bool | None:
    """Return whether an artifact's code was tuned, None where its runtime has nothing to tune."""
    lowering: Any = artifact.manifest.get("lowering", {})
    found: bool | None = lowering.get("tuned")
    return found


def tuned_kernels(artifact: Artifact) -> dict[str, Any]:
    """Return how many of an artifact's kernels were tuned, `{"tuned_kernels": ...}`, where some were."""
    lowering: Any = artifact.manifest.get("lowering", {})
    return {"tuned_kernels": lowering["tuned_kernels"]} if lowering.get("tuned") else {}
