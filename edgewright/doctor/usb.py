"""Whether this user may open the USB devices that speak adb.

An interface for adb has class ff, subclass 42 and protocol 01 (system/core/adb of Android); its device is
the file /dev/bus/usb/BUS/NUMBER.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgewright.doctor.adb_phones import UDEV
from edgewright.doctor.finding import DEVICE, Finding, Status, Surroundings

ADB = ("ff", "42", "01")
FIELDS = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")


def check(here: Surroundings) -> Iterator[Finding]:
    """Try the file of each USB device that has an interface for adb."""
    if not here.over_adb:
        return
    for interface in sorted(here.usb.glob("*:*")):
        if tuple(_text(interface / field) for field in FIELDS) == ADB:
            yield _judge(here.usb / interface.name.partition(":")[0], here.usb_nodes)


def _judge(device: Path, nodes: Path) -> Finding:
    name = _text(device / "product") or device.name
    bus, number = _text(device / "busnum"), _text(device / "devnum")
    node = nodes / bus.zfill(3) / number.zfill(3)
    if os.access(node, os.R_OK | os.W_OK):
        return Finding("usb", Status.PASS, f"{name} at {node}")
    return Finding("usb", Status.FAIL, f"{name}: this user may not open {node}", UDEV, DEVICE)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
