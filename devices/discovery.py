"""Find the device that a text like `local` or `adb:SERIAL` names.

The part in front of the first colon is the transport, a file or folder of `devices/transports/`;
the rest is the transport's own business. Adding a transport edits nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol

from compiler.device import Device
from compiler.errors import DeviceError
from devices import transports


def default_cache() -> Path:
    """Return where transports keep what they pushed, unless the caller says otherwise."""
    return Path.home() / ".cache" / "edgewright"


class Transport(Protocol):
    """A way to reach devices.

    It may also have `find(environment) -> tuple[Found, ...]`, where what it finds depends on the
    environment or may be there and not usable, and `expand(address, environment) -> str`, where the
    environment says what an address leaves open. The command line alone passes the environment.
    """

    def open(self, address: str, cache: Path) -> Device:
        """Return the device at an address ("" for the only one); DeviceError where there is none."""
        ...

    def devices(self) -> tuple[str, ...]:
        """Return the specs of the devices that can be reached now, as `open_device` takes them."""
        ...


@dataclass(frozen=True)
class Found:
    """A device that was found: how it is opened, and what keeps it from being used ("" for nothing)."""

    spec: str
    problem: str = ""


def list_transports() -> tuple[str, ...]:
    """Return the names of the transports, sorted."""
    return tuple(sorted(module.name for module in iter_modules(transports.__path__)))


def open_device(spec: str, cache: Path | None = None) -> Device:
    """Return the device that `spec` names, `transport` or `transport:address`.

    `cache` is the private folder for pushed files, `~/.cache/edgewright` by default. Raises
    DeviceError naming the transports there are, or what the transport misses.
    """
    name, _, address = spec.partition(":")
    if name not in list_transports():
        raise DeviceError(
            f"there is no way to reach the device {spec!r}: {name!r} is not a transport; "
            f"known: {', '.join(list_transports())}"
        )
    return _transport(name).open(address, default_cache() if cache is None else cache)


def list_devices() -> tuple[str, ...]:
    """Return the specs of all devices that can be reached now."""
    return tuple(spec for name in list_transports() for spec in _transport(name).devices())


def find_devices(environment: Mapping[str, str]) -> tuple[Found, ...]:
    """Return all devices that can be seen now, those that cannot be used with the problem."""
    return tuple(found for name in list_transports() for found in _find(_transport(name), environment))


def expand_spec(spec: str, environment: Mapping[str, str]) -> str:
    """Return a spec with what the environment says of it written out (`ANDROID_SERIAL` for `adb`)."""
    name, _, address = spec.partition(":")
    expand = getattr(_transport(name), "expand", None) if name in list_transports() else None
    if expand is None:
        return spec
    return f"{name}:{expand(address, environment)}".rstrip(":")


def _find(transport: Transport, environment: Mapping[str, str]) -> tuple[Found, ...]:
    find = getattr(transport, "find", None)
    found: tuple[Found, ...] = find(environment) if find else tuple(map(Found, transport.devices()))
    return found


def _transport(name: str) -> Transport:
    transport: Transport = import_module(f"{transports.__name__}.{name}").TRANSPORT
    return transport
