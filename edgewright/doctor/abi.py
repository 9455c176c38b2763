"""Whether a device runs the code that the runtimes are built for."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.device import Device
from devices.topology import read_topology
from edgewright.doctor.finding import DEVICE, Finding, Status

MACHINES = ("aarch64", "arm64", "x86_64", "amd64")


def check(device: Device) -> Iterator[Finding]:
    """Ask for the machine and, on Android, for its ABIs."""
    topology = read_topology(device)
    abis = ", ".join(topology.abis)
    if topology.abis and "arm64-v8a" not in topology.abis:
        says = f"Android on it takes {abis}; the runtimes are built for arm64-v8a"
        yield Finding("abi", Status.FAIL, says, "use a phone with a 64-bit system", DEVICE)
    elif topology.machine not in MACHINES:
        says = f"its kernel runs {topology.machine}; the runtimes are built for aarch64 and x86_64"
        yield Finding("abi", Status.FAIL, says, "install a 64-bit system on it", DEVICE)
    else:
        yield Finding("abi", Status.PASS, f"{topology.machine}{f' with {abis}' if abis else ''}")
