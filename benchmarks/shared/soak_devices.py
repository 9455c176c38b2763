"""Devices for the soak: this machine under several names beside those that `edgewright devices` lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.device import Device
from devices import open_device
from devices.transports.local import LocalDevice


class Named(LocalDevice):
    """This machine as `soak:NAME`, a device of its own beside others of the kind."""

    def __init__(self, spec: str, cache: Path) -> None:
        """Keep pushed files apart from the other names'."""
        super().__init__(cache / spec)
        self.name = spec

    def identity(self) -> str:
        """Return the name: a lease is for one of them."""
        return self.name

    def fingerprint(self) -> Mapping[str, str]:
        """Return the same for all of them."""
        return {"machine": "soak"}


def open_soak(spec: str, cache: Path | None) -> Device:
    """Return `soak:NAME`, or the device that a spec names."""
    if spec.startswith("soak:"):
        assert cache is not None
        return Named(spec, cache)
    return open_device(spec, cache)
