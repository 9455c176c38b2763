"""The machine that edgewright itself runs on."""

from __future__ import annotations

from pathlib import Path

from compiler.device import Device
from compiler.errors import DeviceError
from devices.local_device import LocalDevice

__all__ = ["TRANSPORT", "LocalDevice"]


class LocalTransport:
    """Reaches the one local device."""

    def open(self, address: str, cache: Path) -> Device:
        """Return the local device; DeviceError for an address."""
        if address:
            raise DeviceError(f"the device `local` takes no address, got {address!r}; accepted: local")
        return LocalDevice(cache)

    def devices(self) -> tuple[str, ...]:
        """Return the one spec there is."""
        return ("local",)


TRANSPORT = LocalTransport()
