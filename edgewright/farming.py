"""Profile artifacts on several devices: each on every kind of device, and equal devices share the work."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler.device import DeviceProfile
from compiler.errors import EdgewrightError, UsageError
from compiler.records import Artifact, Measurement
from devices.farm import DeviceReport, Farm, Job, Limits, ProcessFarm
from edgewright.artifact import method_entry, read_artifact
from edgewright.profiling import candidate, measurement_document, tuned, tuned_kernels
from edgewright.recipe import resolve
from edgewright.stages import Progress, silent

SCHEMA = "edgewright.farm/1"


@dataclass(frozen=True)
class FarmRun:
    """What a farm measured, what it could not, and what became of its devices."""

    measured: tuple[tuple[Artifact, str, Measurement], ...]
    failed: tuple[tuple[Artifact, tuple[str, ...], EdgewrightError], ...]
    devices: tuple[DeviceReport, ...]

    @property
    def exit_code(self) -> int:
        """0, or the code of the first failure; 7 where a reading is not steady."""
        codes = [error.exit_code for *_, error in self.failed]
        return next(iter(codes), 0 if all(m.stable for *_, m in self.measured) else 7)

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "schema": SCHEMA,
            "measurements": [
                {"artifact": str(a.folder), **_measurement(a, method, m)} for a, method, m in self.measured
            ],
            "failed": [
                {
                    "artifact": str(a.folder),
                    "devices": list(devices),
                    "error": type(error).__name__,
                    "message": str(error),
                }
                for a, devices, error in self.failed
            ],
            "devices": [asdict(one) for one in self.devices],
        }


def profile_on_farm(
    artifacts: Sequence[str | Path],
    devices: Sequence[str],
    *,
    database: str | Path,
    profile: str | DeviceProfile | None = None,
    method: str | None = None,
    again: bool = False,
    limits: Limits | None = None,
    wait_s: float | None = None,
    progress: Progress = silent,
) -> FarmRun:
    """Measure every artifact once on every kind of device.

    Args:
        artifacts: folders that `compile` wrote.
        devices: as `edgewright devices` lists them; those with equal fingerprints share the work.
        database: where raw samples are kept: a path, or the URL of a server that several hosts share.
        profile: how to run; the profile each artifact was compiled for by default.
        method: which method of the programs to run; the first one by default.
        again: measure anew what the database has a steady reading of.
        limits: how long to wait for what, and how often to try.
        wait_s: how long to wait for a device that is in use, in seconds; as long as it takes by default.
        progress: called with what happens.

    Raises:
        UsageError: a folder is no artifact, has no such method, or the database cannot be used.
        DeviceError: no device can be used. One that fails later, or an artifact that does, is in the result.
    """
    if not devices:
        raise UsageError("a farm needs devices: name one or more with --device, from `edgewright devices`")
    built = [read_artifact(artifact) for artifact in artifacts]
    programs = [_program(artifact, profile, method) for artifact in built]
    with ProcessFarm(devices, database, limits=limits, wait_s=wait_s, tell=progress) as farm:
        kinds = farm.kinds()
        futures = [
            (artifact, specs, farm.submit(Job(*program, kind, reuse=not again)))
            for artifact, program in zip(built, programs, strict=True)
            for kind, specs in kinds.items()
        ]
        progress(f"{len(futures)} jobs on {sum(map(len, kinds.values()))} devices of {len(kinds)} kinds")
        farm.drain(_counted(progress, [future for *_, future in futures]))
        return _run(farm, futures, method)


def _program(artifact: Artifact, profile: str | DeviceProfile | None, method: str | None) -> tuple[Any, Any]:
    target, found = resolve(profile or str(artifact.manifest["profile"]), str(artifact.manifest["target"]))
    return candidate(artifact, target, found, method=method), found


def _counted(progress: Progress, futures: Sequence[Future[Measurement]]) -> Progress:
    def line(text: str) -> None:
        progress(f"{sum(future.done() for future in futures)} of {len(futures)} done; {text}")

    return line


def _run(
    farm: Farm,
    futures: Sequence[tuple[Artifact, tuple[str, ...], Future[Measurement]]],
    method: str | None,
) -> FarmRun:
    measured, failed = [], []
    for artifact, specs, future in futures:
        error = future.exception()
        if error is None:
            measured.append((artifact, str(method_entry(artifact, method)["name"]), future.result()))
        elif isinstance(error, EdgewrightError):
            failed.append((artifact, specs, error))
        else:
            raise error
    return FarmRun(tuple(measured), tuple(failed), farm.devices())


def _measurement(artifact: Artifact, method: str, measurement: Measurement) -> dict[str, Any]:
    model = str(artifact.manifest["model"])
    document = measurement_document(measurement, model, method, tuned(artifact))
    return document | tuned_kernels(artifact)
