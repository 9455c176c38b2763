"""The phones an adb server lists, and whether each lets us in."""

from __future__ import annotations

from collections.abc import Iterator

from edgewright.doctor.adb_server import query
from edgewright.doctor.finding import DEVICE, Finding, Status, Surroundings

UDEV = "apt-get install android-sdk-platform-tools-common (udev rules), then plug the phone in again"
STEPS = {
    "unauthorized": "accept the prompt on the phone, then run again",
    "authorizing": "accept the prompt on the phone, then run again",
    "offline": "adb reconnect offline, or plug the phone in again",
    "no permissions": UDEV,
}
ATTACH = (
    "turn USB debugging on and plug the phone in; or, once plugged in, adb tcpip 5555 and "
    "adb connect HOST:5555; or adb pair HOST:PORT for wireless debugging"
)


def check(here: Surroundings) -> Iterator[Finding]:
    """Tell the state of each phone that a running server lists."""
    if not here.over_adb:
        return
    try:
        listed = query("host:devices", here.adb_port)
    except (OSError, ValueError):
        return  # no server: `adb_program` says so
    phones = [tuple(line.split("\t", 1)) for line in listed.splitlines() if "\t" in line]
    yield from (judge(serial, state.strip()) for serial, state in phones)
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
