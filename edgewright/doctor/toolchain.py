"""What links code for another processor, and what runs it here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from edgewright.doctor.finding import Finding, Status, Surroundings

QEMU = ("qemu-aarch64", "qemu-aarch64-static")


def check(here: Surroundings) -> Iterator[Finding]:
    """Look for zig, which links static executables, and for qemu, which the emulated boards are."""
    if find_spec("ziglang") is not None:
        yield Finding("linker", Status.PASS, "zig links static executables for other processors")
    else:
        yield Finding(
            "linker",
            Status.WARN,
            "no zig: TVM cannot write static executables for phones",
            "pip install 'edgewright[tvm]'",
        )
    found = next((path for name in QEMU if (path := here.find_program(name))), None)
    if found:
        yield Finding("qemu", Status.PASS, f"{found} runs the emulated boards")
    elif here.transport in (None, "emulated"):
        says = "no qemu-aarch64 on the path: emulated boards have to fetch it when they are first used"
        yield Finding("qemu", Status.WARN, says, "apt-get install qemu-user")
