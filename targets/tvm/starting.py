"""How a program of TVM's is started: a static executable by itself, a library by the Python runner."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from compiler.device import DeviceProfile
from compiler.errors import UsageError
from compiler.records import Artifact, RunSpec
from targets.serving import served
from targets.tvm import LIBRARY_TWIN, PROGRAM
from targets.tvm.processor import machine
from targets.tvm.static import EXECUTABLE, TWIN, WEIGHTS


def run_spec(artifact: Artifact, profile: DeviceProfile, method: str | None) -> RunSpec:
    """Return how the profile's processor runs the program, or, where it states none, this machine its twin.

    Raises UsageError for a program that was compiled for another processor.
    """
    _check_processor(artifact, profile)
    if (artifact.folder / EXECUTABLE).exists():
        program = _chosen(artifact.folder, profile, EXECUTABLE, TWIN)
        command = ("{program}", "{weights}", *(("--method", method) if method else ()))
        return RunSpec({"program": program, "weights": artifact.folder / WEIGHTS}, command)
    library = _chosen(artifact.folder, profile, PROGRAM, LIBRARY_TWIN).name
    spec = served(artifact, profile, "tvm", Path(__file__).parent / "runner.py", (library,), method)
    # Left alone, TVM binds its threads to the first CPUs, whatever CPUs the process was given.
    return dataclasses.replace(spec, env={"TVM_NUM_THREADS": str(profile.threads), "TVM_BIND_THREADS": "0"})


def _chosen(folder: Path, profile: DeviceProfile, program: str, twin: str) -> Path:
    here = profile.arch is None and (folder / twin).exists()
    return folder / (twin if here else program)


def _check_processor(artifact: Artifact, profile: DeviceProfile) -> None:
    lowering: Any = artifact.manifest.get("lowering")
    if profile.arch is None or lowering is None:
        return
    built = (lowering.get("arch", machine()), lowering.get("cpu"))
    if built[0] != profile.arch or (profile.cpu is not None and built[1] not in (None, profile.cpu)):
        wanted = " ".join(filter(None, (profile.arch, profile.cpu)))
        raise UsageError(
            f"{artifact.folder} was compiled for {' '.join(filter(None, built))}, the profile "
            f"{profile.name!r} is of {wanted}: compile it for that profile"
        )
