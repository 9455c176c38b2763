"""Run the checks in their order, each within its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from compiler.device import Device
from compiler.errors import EdgewrightError
from devices import open_device
from edgewright.doctor import (
    abi,
    adb_keys,
    adb_phones,
    adb_program,
    database,
    python,
    sdks,
    space,
    toolchain,
    usb,
)
from edgewright.doctor.finding import DEVICE, HOST, Finding, Status, Surroundings

CHECKS: tuple[Callable[[Surroundings], Iterable[Finding]], ...] = (
    python.check,
    sdks.check,
    toolchain.check,
    database.check,
    adb_program.check,
    adb_keys.check,
    adb_phones.check,
    usb.check,
)
DEVICE_CHECKS: tuple[Callable[[Device], Iterable[Finding]], ...] = (abi.check, space.check)
IDENTITY = ("manufacturer", "model", "processor", "machine", "system", "kernel")  # of a fingerprint, to show
TIMEOUT_S = 60.0
SCHEMA = "edgewright.doctor/1"


def examine(here: Surroundings, tell: Callable[[str], None] = lambda _: None) -> tuple[Finding, ...]:
    """Return what all checks find, those of the device last."""
    found: list[Finding] = []
    for check in CHECKS:
        tell(_name(check))
        found += within(lambda check=check: check(here), _name(check), HOST)  # type: ignore[misc]
    if here.device is not None:
        tell(here.device)
        found += _examine_device(here.device, tell)
    return tuple(found)


def document(here: Surroundings, found: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as a JSON document."""
    return {
        "schema": SCHEMA,
        "device": here.device,
        "exit_code": exit_code(found),
        "checks": [
            {"check": f.check, "status": str(f.status), "says": f.says, "next": f.next} for f in found
        ],
    }


def exit_code(found: Sequence[Finding]) -> int:
    """Return 0 where nothing fails, or else 5 for a device and 2 for this machine."""
    failures = {f.exit_code for f in found if f.status is Status.FAIL}
    return max(failures, default=0)


def within(
    check: Callable[[], Iterable[Finding]], name: str, code: int, timeout_s: float = TIMEOUT_S
) -> list[Finding]:
    """Return what a check finds, or that it raised, or that it took too long."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except EdgewrightError as error:
            found.append(Finding(name, Status.FAIL, str(error), None, code))
        except Exception as error:  # a check that breaks must not hide the others
            says = f"the check itself failed: {type(error).__name__}: {error}"
            found.append(Finding(name, Status.FAIL, says, "report this", code))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return [Finding(name, Status.FAIL, f"no answer within {timeout_s:g} s", "run again", code)]
    return found


def _examine_device(spec: str, tell: Callable[[str], None]) -> list[Finding]:
    devices: list[Device] = []

    def reach() -> Iterable[Finding]:
        device = open_device(spec)
        identity = device.fingerprint()
        devices.append(device)
        told = [identity[key] for key in IDENTITY if identity.get(key)]
        yield Finding("device", Status.PASS, f"{device.name}: {', '.join(told)}")

    found = within(reach, "device", DEVICE)
    for check in DEVICE_CHECKS if devices else ():
        tell(_name(check))
        found += within(lambda check=check: check(devices[0]), _name(check), DEVICE)  # type: ignore[misc]
    return found


def _name(check: Callable[..., object]) -> str:
    return check.__module__.rpartition(".")[2].replace("_", " ")
