"""The addresses of phones.

    adb                        the only phone
    adb:SERIAL, adb:HOST:PORT  this phone, by the server when one runs, else directly
    adb:server:SERIAL          through the adb server only
    adb:direct:HOST:PORT       straight to its daemon over TCP
    adb:usb, adb:usb:SERIAL    straight to its daemon over USB

`server@PORT:` and `auto@PORT:` name the port of the adb server where it is not 5037.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.errors import DeviceError
from devices.transports.adb.server import PORT

WAYS = ("auto", "server", "direct", "usb")


@dataclass(frozen=True)
class Address:
    """Which phone, which way."""

    way: str
    serial: str
    port: int = PORT

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """Return host and port where the serial is an address of a daemon on TCP."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^:]+):(\d{1,5})", self.serial)
        return (found[1].strip("[]"), int(found[2])) if found and int(found[2]) < 1 << 16 else None


def parse_address(text: str) -> Address:
    """Read what follows `adb:`; DeviceError saying what would be accepted."""
    found = re.match(r"(auto|server)@(\d{1,5})(?::|$)", text)
    if found:
        return Address(found[1], text[found.end() :], int(found[2]))
    way, _, rest = text.partition(":")
    if way not in WAYS:
        return Address("auto", text)
    address = Address(way, rest)
    if way == "direct" and address.endpoint is None:
        raise DeviceError(
            f"adb:direct needs the address of a daemon, as in adb:direct:192.168.1.7:5555, not {rest!r}"
        )
    return address


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Return an address with what the environment says written out: the phone, and the server's port."""
    address = parse_address(text)
    serial = address.serial or (environment.get("ANDROID_SERIAL", "") if address.way != "direct" else "")
    port = server_port(environment)
    if address.way in ("auto", "server") and address.port == PORT and port != PORT:
        return f"{address.way}@{port}:{serial}".rstrip(":")
    if serial == address.serial:
        return text
    return serial if address.way == "auto" else f"{address.way}:{serial}"


def server_port(environment: Mapping[str, str]) -> int:
    """Return the port of the adb server that the environment names."""
    text = environment.get("ANDROID_ADB_SERVER_PORT", "")
    if not text:
        return PORT
    if not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise DeviceError(f"ANDROID_ADB_SERVER_PORT={text!r} is not a port")
    return int(text)
