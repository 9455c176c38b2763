"""Choose the way to a phone: the adb server when one runs and knows it, else its daemon.

A server that runs and does not know an address on TCP is asked to connect to it; where that fails, we
connect ourselves.
"""

from __future__ import annotations

import getpass
import hashlib
import socket
import time

from compiler.errors import DeviceError
from devices import android
from devices.shell import ShellDevice
from devices.transports.adb.address import Address
from devices.transports.adb.direct import DirectBridge, tcp_pipe
from devices.transports.adb.greeting import greet
from devices.transports.adb.keys import Key, android_key, default_folder, load_keys
from devices.transports.adb.server import (
    Listed,
    NoServer,
    ServerBridge,
    connect,
    list_phones,
    problem,
    reconnect,
)
from devices.transports.adb.shell import AdbShell
from devices.transports.adb.usb import UsbPipe

SETTLE_S = 3.0
SETTLING = ("offline", "connecting", "authorizing")

Bridge = ServerBridge | DirectBridge


def open_phone(address: Address) -> ShellDevice:
    """Return the phone as a device; DeviceError saying why it cannot be."""
    bridge = open_bridge(address)
    if "shell_v2" not in bridge.features():
        bridge.close()
        raise DeviceError(f"{bridge.name} has no shell v2: Android 7 or newer is needed")
    return ShellDevice(AdbShell(bridge), android, private_folder())


def open_bridge(address: Address) -> Bridge:
    """Return the way to a phone that is there and lets us in."""
    if address.way == "direct":
        return _direct(address)
    if address.way == "usb":
        return _usb(address)
    try:
        return _through_server(address)
    except NoServer:
        if address.way == "server":
            raise
        return _direct(address) if address.endpoint else _usb(address)


def private_folder() -> str:
    """Return our folder on a phone: all who use adb are one user there, so it carries who we are here."""
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    return f"/data/local/tmp/edgewright-{hashlib.sha256(who.encode()).hexdigest()[:12]}"


def _through_server(address: Address) -> Bridge:
    phones = list_phones(address.port)
    if not address.serial:
        return _only(phones, address.port)
    known = {phone.serial: phone.state for phone in phones}
    if known.get(address.serial) != "device" and address.endpoint:
        said, known = _joined(address, known.get(address.serial) == "offline")
        if address.serial not in known:
            if address.way == "auto":
                return _direct(address)
            raise DeviceError(f"the adb server cannot connect to {address.serial!r}: {said}")
    if address.serial not in known:
        raise DeviceError(f"there is no phone {address.serial!r}; the adb server knows: {_names(phones)}")
    if known[address.serial] != "device":
        raise DeviceError(f"the phone {address.serial!r} is {problem(known[address.serial])}")
    return ServerBridge(address.serial, address.port)


def _joined(address: Address, again: bool) -> tuple[str, dict[str, str]]:
    """Have the server connect to a phone, and return what it said and the states of the phones then."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        said = (reconnect if again else connect)(address.serial, address.port)
        known = _settled(address)
        # A phone that was taken away and came back is "already connected" until the server lets go of it.
        if address.serial in known or not said.startswith("already") or time.monotonic() > deadline:
            return said, known
        again = True


def _settled(address: Address) -> dict[str, str]:
    """Return the states of the phones once the one just connected to has greeted the server."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        known = {phone.serial: phone.state for phone in list_phones(address.port)}
        if known.get(address.serial) not in SETTLING or time.monotonic() > deadline:
            return known
        time.sleep(0.05)


def _only(phones: tuple[Listed, ...], port: int) -> Bridge:
    if not phones:
        raise DeviceError("no phone is attached: plug one in with USB debugging on, or name adb:HOST:PORT")
    if len(phones) > 1:
        raise DeviceError(
            f"there are several phones, name one: {_names(phones)} (as adb:SERIAL, or in ANDROID_SERIAL)"
        )
    if phones[0].state != "device":
        raise DeviceError(f"the phone {phones[0].serial!r} is {problem(phones[0].state)}")
    return ServerBridge(phones[0].serial, port)


def _names(phones: tuple[Listed, ...]) -> str:
    return (
        ", ".join(f"{p.serial}" + (f" ({p.state})" if p.state != "device" else "") for p in phones) or "none"
    )


def _direct(address: Address) -> DirectBridge:
    name = f"adb:{address.serial}"
    endpoint = address.endpoint
    assert endpoint is not None
    return DirectBridge(name, lambda: greet(tcp_pipe(*endpoint, name), name, _keys))


def _usb(address: Address) -> DirectBridge:
    name = f"adb:{address.serial or 'usb'}"
    return DirectBridge(name, lambda: greet(UsbPipe(address.serial or None), name, _keys))


def _keys() -> tuple[Key, ...]:
    return load_keys(default_folder(), (android_key(),))
