"""Which core an Arm implementer and part number stand for, and what LLVM calls it.

Numbers as in Linux's arch/arm64/include/asm/cputype.h; the two parts of the first Kryo as in
pytorch/cpuinfo's src/arm/uarch.c. Kryo 2xx to 4xx are Arm's cores under a number of Qualcomm's.
"""

from __future__ import annotations

from dataclasses import dataclass

ARM, QUALCOMM = 0x41, 0x51
WITHOUT_SVE = "cortex-a78"  # Arm's last big core of version 8: later ones run its code


@dataclass(frozen=True)
class Core:
    """A core by the name LLVM knows it by; `sve` where LLVM takes SVE2 to be there."""

    name: str
    sve: bool = False

    def cpu(self, features: frozenset[str]) -> str:
        """Return the processor to make code for: a kernel may keep SVE from programs."""
        return self.name if not self.sve or "sve2" in features else WITHOUT_SVE


CORES: dict[tuple[int, int], Core] = {
    (ARM, 0xD03): Core("cortex-a53"),
    (ARM, 0xD04): Core("cortex-a35"),
    (ARM, 0xD05): Core("cortex-a55"),
    (ARM, 0xD07): Core("cortex-a57"),
    (ARM, 0xD08): Core("cortex-a72"),
    (ARM, 0xD09): Core("cortex-a73"),
    (ARM, 0xD0A): Core("cortex-a75"),
    (ARM, 0xD0B): Core("cortex-a76"),
    (ARM, 0xD0C): Core("neoverse-n1"),
    (ARM, 0xD0D): Core("cortex-a77"),
    (ARM, 0xD41): Core("cortex-a78"),
    (ARM, 0xD42): Core("cortex-a78ae"),
    (ARM, 0xD44): Core("cortex-x1"),
    (ARM, 0xD46): Core("cortex-a510", sve=True),
    (ARM, 0xD47): Core("cortex-a710", sve=True),
    (ARM, 0xD48): Core("cortex-x2", sve=True),
    (ARM, 0xD4B): Core("cortex-a78c"),
    (ARM, 0xD4C): Core("cortex-x1c"),
    (ARM, 0xD4D): Core("cortex-a715", sve=True),
    (ARM, 0xD4E): Core("cortex-x3", sve=True),
    (ARM, 0xD80): Core("cortex-a520", sve=True),
    (ARM, 0xD81): Core("cortex-a720", sve=True),
    (ARM, 0xD82): Core("cortex-x4", sve=True),
    (ARM, 0xD85): Core("cortex-x925", sve=True),
    (ARM, 0xD87): Core("cortex-a725", sve=True),
    (QUALCOMM, 0x201): Core("kryo"),
    (QUALCOMM, 0x205): Core("kryo"),
    (QUALCOMM, 0x800): Core("cortex-a73"),
    (QUALCOMM, 0x801): Core("cortex-a53"),
    (QUALCOMM, 0x802): Core("cortex-a75"),
    (QUALCOMM, 0x803): Core("cortex-a55"),
    (QUALCOMM, 0x804): Core("cortex-a76"),
    (QUALCOMM, 0x805): Core("cortex-a55"),
}


def core_named(name: str | None) -> Core | None:
    """Return the core of a name, None for one that the table does not have."""
    return next((core for core in CORES.values() if core.name == name), None)
