"""The phones an adb server lists, and whether each lets us in."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.errors import DeviceError
from devices.transports.adb.server import ADVICE, list_phones
from edgewright.doctor.finding import DEVICE, Finding, Status, Surroundings

UDEV = "apt-get install android-sdk-platform-tools-common (udev rules), then plug the phone in again"
STEPS = {**ADVICE, "no permissions": UDEV}
ATTACH = (
    "turn USB debugging on and plug the phone in; or, once plugged in, adb tcpip 5555 and "
    "adb connect HOST:5555; or adb pair HOST:PORT for wireless debugging"
)


def check(here: Surroundings) -> Iterator[Finding]:
    """Tell the state of each phone that a running server lists."""
    if not here.over_adb:
        return
    try:
        phones = list_phones(here.adb_port)
    except DeviceError:
        return  # no server: `adb_program` says so
    yield from (judge(phone.serial, phone.state.strip()) for phone in phones)
    if not phones:
        yield Finding("phone", Status.WARN, "the adb server lists none", ATTACH)


def judge(serial: str, state: str) -> Finding:
    """Return what a phone's state means."""
    if state == "device":
        return Finding("phone", Status.PASS, f"{serial} is ready")
    step = next(
        (step for start, step in STEPS.items() if state.startswith(start)), "start Android on the phone"
    )
    return Finding("phone", Status.FAIL, f"{serial} is {state}", step, DEVICE)
