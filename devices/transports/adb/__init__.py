"""Android phones, through a running adb server or straight to the daemon on the phone.

Both ways give the same byte streams to the same services (`devices.transports.adb.stream`), so shell and
files are written once. `devices.transports.adb.address` says how a phone is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.device import Device
from devices.transports.adb.address import expand, parse_address, server_port
from devices.transports.adb.choice import open_bridge, open_phone
from devices.transports.adb.server import PORT, NoServer, list_phones

__all__ = ["TRANSPORT", "open_bridge"]


class AdbTransport:
    """Reaches Android phones."""

    def open(self, address: str, cache: Path) -> Device:
        """Return the phone at an address; DeviceError saying why there is none."""
        return open_phone(parse_address(address))

    def devices(self, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Return the phones a running adb server lists; none is started."""
        port = server_port(environment or {})
        prefix = "adb:" if port == PORT else f"adb:auto@{port}:"
        try:
            return tuple(prefix + phone.serial for phone in list_phones(port))
        except NoServer:
            return ()

    def expand(self, address: str, environment: Mapping[str, str]) -> str:
        """Return an address with ANDROID_SERIAL and ANDROID_ADB_SERVER_PORT written out."""
        return expand(address, environment)


TRANSPORT = AdbTransport()
