"""Schedules that were tried for kernels, in the measurement database: one row a trial.

Only trials under the same conditions count: the device's fingerprint, the runtime with its versions, the
processor and threads that code is made for, the CPUs it runs on and the metric. The trials of a batch
are written together, so that an interrupted tuning loses the batch it was in and no more.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import sqlalchemy as sa

from compiler.device import Device, DeviceProfile
from compiler.tuning import Trial
from devices.database import MeasurementDatabase
from devices.schema import schedule_trial


def schedule_conditions(
    device: Device, profile: DeviceProfile, versions: Mapping[str, str], processor: Mapping[str, str]
) -> dict[str, object]:
    """Return what the trials of one population share; DeviceError where the device cannot be asked."""
    return {
        "fingerprint": dict(device.fingerprint()),
        "target": dict(versions),
        "processor": dict(processor),
        "affinity": list(profile.affinity),
        "metric": profile.protocol.metric.value,
    }


def record_trials(
    database: MeasurementDatabase,
    kernel: str,
    conditions: Mapping[str, object],
    device: str,
    trials: Sequence[Trial],
) -> None:
    """Write the trials of a batch in one transaction."""
    shared: dict[str, object] = {"kernel": kernel, "device": device, "created_ns": time.time_ns()}
    shared |= {"conditions": dict(conditions), "conditions_digest": _digest(conditions)}
    rows = [shared | asdict(trial) for trial in trials]
    with database._writing() as connection:
        schedule_trial.create(connection, checkfirst=True)
        connection.execute(schedule_trial.insert(), rows)


def recorded_trials(
    database: MeasurementDatabase, conditions: Mapping[str, object]
) -> dict[str, list[Trial]]:
    """Return all trials under these conditions, oldest first, by kernel."""
    table = schedule_trial
    query = table.select().where(table.c.conditions_digest == _digest(conditions)).order_by(table.c.id)
    found: dict[str, list[Trial]] = {}
    with database._reading() as connection:
        if not sa.inspect(connection).has_table(table.name):
            return {}
        for row in connection.execute(query):
            trial = Trial(row.schedule, row.latency, row.baseline, row.reason)
            found.setdefault(row.kernel, []).append(trial)
    return found


def _digest(conditions: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
