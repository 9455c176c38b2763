"""Emulated Arm boards: `emulated:cortex-a76`, real Arm runtimes and kernels under qemu-user.

For correctness on an Arm processor, and for a deterministic number of instructions; never for time.
"""

from __future__ import annotations

from pathlib import Path

from compiler.device import Device
from compiler.errors import DeviceError
from devices.transports.emulated.cores import CORES
from devices.transports.emulated.device import EmulatedDevice
from devices.transports.emulated.emulator import make_emulator, unusable


class EmulatedTransport:
    """Makes boards out of Debian's packages and qemu."""

    def open(self, address: str, cache: Path) -> Device:
        """Return the board of a core, made in `cache` where it is not there; else DeviceError."""
        if address not in CORES:
            accepted = ", ".join(f"emulated:{name}" for name in CORES)
            raise DeviceError(f"there is no emulated board {address!r}; accepted: {accepted}")
        return EmulatedDevice(address, cache, make_emulator(address, CORES[address], cache))

    def devices(self) -> tuple[str, ...]:
        """Return the boards that this machine can emulate."""
        return () if unusable() else tuple(f"emulated:{name}" for name in CORES)


TRANSPORT = EmulatedTransport()
