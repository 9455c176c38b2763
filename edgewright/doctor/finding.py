"""What a check found, and what the checks may look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from devices.transports.adb.server import PORT

HOST, DEVICE = 2, 5  # the exit codes of a failure: something here is not as needed; the device is not


class Status(StrEnum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"  # something cannot be done until the next step is taken
    FAIL = "fail"  # something is wrong and would fail later, less clearly


@dataclass(frozen=True)
class Finding:
    """One line: what is so, and the next command where it is not as needed."""

    check: str
    status: Status
    says: str
    next: str | None = None
    exit_code: int = HOST


@dataclass(frozen=True)
class Surroundings:
    """What the checks look at: parameters, so that tests can make up a machine."""

    database: str
    device: str | None = None
    home: Path = field(default_factory=Path.home)
    adb_port: int = PORT
    usb: Path = Path("/sys/bus/usb/devices")
    usb_nodes: Path = Path("/dev/bus/usb")
    find_program: Callable[[str], str | None] = shutil.which

    @property
    def transport(self) -> str | None:
        """The transport of the device that is asked about, None for none."""
        return None if self.device is None else self.device.partition(":")[0]

    @property
    def over_adb(self) -> bool:
        """Whether phones are of interest: no device is named, or one that adb reaches."""
        return self.transport in (None, "adb")
