"""Which processor code is made for: this machine's own, or the one that a profile states.

A processor's name is LLVM's (`cortex-a76`); LLVM takes one that it does not know for a generic one,
so that such a name is refused here.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from compiler.device import DeviceProfile
from compiler.errors import UsageError

GENERIC = {"aarch64": "generic", "x86_64": "x86-64"}
ALSO = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True)
class Processor:
    """An instruction set and LLVM's name of the processor."""

    arch: str
    cpu: str

    def target(self, system: str) -> Any:
        """Return TVM's target for the processor under a system, `linux-musl` or `linux-gnu`."""
        import tvm

        return tvm.target.Target({"kind": "llvm", "mtriple": self.triple(system), "mcpu": self.cpu})

    def runs_here(self) -> bool:
        """Tell whether this machine runs its code: its own, or any of its instruction set."""
        here = this_machine()
        return self.arch == here.arch and self.cpu in (here.cpu, GENERIC.get(self.arch))

    def triple(self, system: str) -> str:
        """Return the triple that LLVM and zig know the machine by."""
        return f"{self.arch}-{system}"


def this_machine() -> Processor:
    """Return the processor that edgewright runs on."""
    from tvm.target.codegen import llvm_get_system_cpu

    return Processor(machine(), str(llvm_get_system_cpu()))


def machine() -> str:
    """Return this machine's instruction set under the name that profiles use."""
    name = platform.machine().lower()
    return ALSO.get(name, name)


def stated(profile: DeviceProfile) -> Processor:
    """Return the processor of a profile that states its `arch`.

    Without a `cpu` it is any of that instruction set: this machine may have more than the device.
    Raises UsageError for a processor that LLVM does not know.
    """
    assert profile.arch is not None
    if profile.cpu is None:
        return Processor(profile.arch, GENERIC[profile.arch])
    _check_known(profile.name, profile.arch, profile.cpu)
    return Processor(profile.arch, profile.cpu)


def _check_known(profile: str, arch: str, cpu: str) -> None:
    from tvm.target import codegen

    generic = Processor(arch, GENERIC[arch]).target("linux-musl")
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(generic)]
    if cpu not in known:
        near = get_close_matches(cpu, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"the profile {profile!r}: LLVM knows no {arch} processor {cpu!r}{hint}")
