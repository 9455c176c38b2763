"""The adb program: a phone can be reached without, but not paired over Wi-Fi."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.errors import DeviceError
from devices.transports.adb.server import query
from edgewright.doctor.finding import Finding, Status, Surroundings


def check(here: Surroundings) -> Iterator[Finding]:
    """Look for the program, and for a server of it."""
    if not here.over_adb:
        return
    program = here.find_program("adb")
    if program:
        yield Finding("adb", Status.PASS, program)
    else:
        says = "no adb program: phones on a network port or USB work without, pairing over Wi-Fi does not"
        yield Finding("adb", Status.WARN, says, "apt-get install adb")
    try:
        version = int(query("host:version", here.adb_port), 16)
    except (DeviceError, ValueError):
        says = f"none answers on port {here.adb_port}: phones are spoken to directly"
        yield Finding("adb server", Status.WARN, says, "adb start-server")
    else:
        yield Finding("adb server", Status.PASS, f"runs on port {here.adb_port}, protocol {version}")
