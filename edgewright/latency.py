"""The latency table that stands in the measurement database for a profile, a runtime and a device."""

from __future__ import annotations

from pathlib import Path

from compiler.cost.latency_table import LatencyTable
from compiler.device import Device, DeviceProfile
from devices import open_device
from devices.database import MeasurementDatabase
from devices.latency import conditions, latency_table
from edgewright.recipe import resolve


def load_table(
    database: str | Path | MeasurementDatabase,
    profile: str | DeviceProfile = "host",
    target: str | None = None,
    device: str | Device = "local",
) -> LatencyTable | None:
    """Return the table of the kernels measured on a device, None where none was measured.

    The device is asked for its fingerprint: readings of another device, of other versions of the
    runtime or of another protocol do not count. Nothing is measured; `calibrate` does that.

    Raises UsageError for an unknown profile, target or database, DeviceError for a missing device.
    """
    chosen, found = resolve(profile, target)
    under = conditions(open_device(device) if isinstance(device, str) else device, chosen, found)
    if isinstance(database, MeasurementDatabase):
        table = latency_table(database, under)
    else:
        with MeasurementDatabase(database) as opened:
            table = latency_table(opened, under)
    return table if table.entries else None
