"""The cores that are emulated: what qemu runs, and what /proc/cpuinfo says of it.

Runtimes choose their kernels by /proc/cpuinfo, so it must match what qemu executes: a feature claimed
but not emulated ends in an illegal instruction, one emulated but not claimed in slower kernels.
Features are the ISA's optional parts as Linux names them for the core (Arm's reference manual of each
core, and arch/arm64/kernel/cpuinfo.c). qemu 7.2 knows no Cortex-A55; it runs as a Cortex-A76, which has
the same instructions, and says that it is a Cortex-A55.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

POSSIBLE = Path("/sys/devices/system/cpu/possible")
V8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True)
class Core:
    """An Arm core: qemu's name of what executes, and the numbers of its identification register."""

    qemu: str
    part: str
    variant: str
    revision: int
    features: str


CORES = {
    "cortex-a53": Core("cortex-a53", "0xd03", "0x0", 4, V8_0),
    "cortex-a55": Core("cortex-a76", "0xd05", "0x1", 0, V8_2),
    "cortex-a72": Core("cortex-a72", "0xd08", "0x0", 3, V8_0),
    "cortex-a76": Core("cortex-a76", "0xd0b", "0x4", 1, V8_2),
}


def cpuinfo(core: Core, processors: int) -> str:
    """Return /proc/cpuinfo of a board with so many of a core."""
    lines = (
        "BogoMIPS\t: 108.00",
        f"Features\t: {core.features}",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        f"CPU variant\t: {core.variant}",
        f"CPU part\t: {core.part}",
        f"CPU revision\t: {core.revision}",
    )
    return "".join("\n".join((f"processor\t: {i}", *lines, "", "")) for i in range(processors))


def host_processors(possible: Path = POSSIBLE) -> int:
    """Return the number of processors that this machine's kernel counts, which the guest sees too."""
    found = re.search(r"(\d+)\s*$", possible.read_text(encoding="utf-8"))
    return int(found[1]) + 1 if found else 1
