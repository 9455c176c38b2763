"""Android phones, through a running adb server or straight to the daemon on the phone.

Both ways give the same byte streams to the same services (`devices.transports.adb.stream`), so shell and
files are written once. `devices.transports.adb.address` says how a phone is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.device import Device
from compiler.errors import DeviceError
from devices.discovery import Found
from devices.transports.adb.address import expand, parse_address, server_port
from devices.transports.adb.choice import open_bridge, open_phone
from devices.transports.adb.server import PORT, list_phones, problem

__all__ = ["TRANSPORT", "open_bridge"]


class AdbTransport:
    """Reaches Android phones."""

    def open(self, address: str, cache: Path) -> Device:
        """Return the phone at an address; DeviceError saying why there is none."""
        return open_phone(parse_address(address))

    def devices(self) -> tuple[str, ...]:
        """Return the phones that a running adb server lists and that let us in; none is started."""
        return tuple(found.spec for found in self.find({}) if not found.problem)

    def find(self, environment: Mapping[str, str]) -> tuple[Found, ...]:
        """Return the phones that the adb server the environment names lists, with what keeps us out."""
        port = server_port(environment)
        prefix = "adb:" if port == PORT else f"adb:auto@{port}:"
        try:
            phones = list_phones(port)
        except DeviceError:  # no server, or one that does not answer: nothing can be seen
            return ()
        return tuple(Found(prefix + p.serial, problem(p.state)) for p in phones)

    def expand(self, address: str, environment: Mapping[str, str]) -> str:
        """Return an address with ANDROID_SERIAL and ANDROID_ADB_SERVER_PORT written out."""
        return expand(address, environment)


TRANSPORT = AdbTransport()
