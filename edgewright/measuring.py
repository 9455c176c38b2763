"""What all that measures has in common: a database that is open, and a device that is ours alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.device import Device
from devices.database import MeasurementDatabase
from devices.lease import lease
from edgewright.stages import Progress

Database = str | Path | MeasurementDatabase


@contextmanager
def opened(database: Database) -> Iterator[MeasurementDatabase]:
    """Yield a database at a path or URL, closed afterwards, or the open one as it is."""
    if isinstance(database, MeasurementDatabase):
        yield database
    else:
        with MeasurementDatabase(database) as kept:
            yield kept


@contextmanager
def exclusive(
    device: Device, database: Database, wait_s: float | None, progress: Progress
) -> Iterator[MeasurementDatabase]:
    """Yield the open database while nobody else measures on the device; DeviceError where it is in use."""
    with opened(database) as kept, lease(device, kept, wait_s=wait_s, progress=progress):
        yield kept
