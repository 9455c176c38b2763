"""Whether there is room on a device for a runtime and a model."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.device import Device
from edgewright.doctor.finding import DEVICE, Finding, Status

TIGHT_MB = 1024  # a runtime with its Python takes some hundred megabytes
LEAST_MB = 64
STEP = "edgewright devices clean, or make room on it"


def check(device: Device) -> Iterator[Finding]:
    """Ask for the room in the folder where things are put."""
    with device.workspace() as folder:
        said = device.run(["df", "-Pk", folder], timeout_s=30).stdout
    free = free_mb(said)
    if free is None:
        yield Finding(
            "space", Status.WARN, "the device does not tell how much room it has", "df -k on the device"
        )
        return
    status = Status.FAIL if free < LEAST_MB else Status.WARN if free < TIGHT_MB else Status.PASS
    step = None if status is Status.PASS else STEP
    yield Finding("space", status, f"{free} MB free where things are put", step, DEVICE)


def free_mb(said: str) -> int | None:
    """Return what `df -Pk` says is available, None where it says nothing."""
    columns = said.strip().splitlines()[-1].split() if said.strip() else []
    return int(columns[3]) // 1024 if len(columns) > 3 and columns[3].isdigit() else None
