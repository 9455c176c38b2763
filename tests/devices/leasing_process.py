"""Holds a lease until its stdin ends: IDENTITY FOLDER [DATABASE]. Says `held`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from devices.database import MeasurementDatabase
from devices.lease import lease


@dataclass
class Named:
    """A device of which only the identity matters."""

    serial: str
    name: str = "named"

    def identity(self) -> str:
        return self.serial


if __name__ == "__main__":
    serial, folder, *database = sys.argv[1:]

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    opened = MeasurementDatabase(database[0]) if database else nullcontext()
    with opened as kept, lease(Named(serial), kept, progress=tell, folder=Path(folder)):
        tell("held")
        sys.stdin.read()
