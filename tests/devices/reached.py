"""The devices that the contract holds for, each reached in its way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from devices import linux
from devices.shell import ShellDevice
from devices.transports.adb.address import parse_address
from devices.transports.adb.choice import open_phone
from devices.transports.local import LocalDevice
from tests.devices.local_shell import LocalShell

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@dataclass(frozen=True)
class Reached:
    """A device, the Python there, and one of its CPUs."""

    device: object
    python: str
    cpu: int


def reach(way: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Reached]:
    return WAYS[way](request, folder)


@contextmanager
def local(request, folder):
    yield Reached(LocalDevice(folder / "cache"), sys.executable, max(os.sched_getaffinity(0)))


@contextmanager
def shell(request, folder):
    device = ShellDevice(LocalShell(folder, PATH), linux, '"$HOME"/edgewright')
    try:
        yield Reached(device, "python3", max(os.sched_getaffinity(0)))
    finally:
        device.close()


@contextmanager
def ssh(request, folder):
    from devices.transports.ssh import open_board, parse_address

    board = request.getfixturevalue("ssh_server")
    device = open_board(parse_address(f"me@127.0.0.1:{board.port}"), board.options())
    try:
        yield Reached(device, "python3", max(os.sched_getaffinity(0)))
    finally:
        device.close()


@contextmanager
def adb_server(request, folder):
    phone, server = request.getfixturevalue("phone"), request.getfixturevalue("adb_server")
    with _phone(f"server@{server.port}:{phone.serial}") as reached:
        yield reached


@contextmanager
def adb_direct(request, folder):
    with _phone(f"direct:{request.getfixturevalue('phone').serial}") as reached:
        yield reached


@contextmanager
def _phone(address):
    device = open_phone(parse_address(address))
    try:
        yield Reached(device, "python3", max(os.sched_getaffinity(0)))
    finally:
        with suppress(Exception):  # a test may have ended the phone
            device.clean()
        device.close()


WAYS: dict[str, Callable] = {
    "local": local,
    "shell": shell,
    "ssh": ssh,
    "adb_server": adb_server,
    "adb_direct": adb_direct,
}
NEEDS_A_STAND_IN = ("ssh", "adb_server", "adb_direct")


def ways(*names: str) -> list:
    """Return pytest parameters for ways, those beyond this machine's own marked as such."""
    marks = {name: [pytest.mark.target] for name in NEEDS_A_STAND_IN}
    return [pytest.param(name, marks=marks.get(name, ())) for name in names or WAYS]
