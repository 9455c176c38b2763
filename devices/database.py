"""The measurement database: append-only, one row for each finished round.

A measurement is begun, gains rounds, and is finished by a verdict; nothing is ever changed or
deleted. What makes two readings comparable is their `Header.key`: the artifact and the versions
that run it, the profile's name, the protocol, the device's fingerprint, the metric and the
series. A run that was interrupted finds its unfinished measurement by that key and goes on.

A latency table is a query over this database, never a file that somebody edited.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from compiler.errors import UsageError
from compiler.records import DeviceState, Measurement, Metric, Round, Statistics
from devices.connection import connect, reason
from devices.sampling import FIELDS
from devices.schema import finished, incident, measurement, round_
from devices.verdict import Conclusion, readings


@dataclass(frozen=True)
class Header:
    """What is known of a measurement when its runner is up and no round has been made."""

    artifact_digest: str
    graph_digest: str
    plan_digest: str
    profile: str
    profile_digest: str
    protocol_digest: str
    device: str
    fingerprint: Mapping[str, str]
    metric: Metric
    threads: int
    plan: str = ""
    target: Mapping[str, str] = field(default_factory=dict)
    series: str = ""
    label: str = ""
    load_ns: int = 0
    first_ns: int = 0
    size_bytes: int | None = None
    peak_rss_bytes: int | None = None

    @property
    def fingerprint_digest(self) -> str:
        """A digest of the fingerprint, 16 hexadecimal digits."""
        return fingerprint_digest(self.fingerprint)

    @property
    def key(self) -> str:
        """A digest of what two readings must share to be one population, 16 hexadecimal digits."""
        shared = (self.artifact_digest, dict(self.target), self.profile, self.protocol_digest)
        return _digest([*shared, self.fingerprint_digest, self.metric, self.series])


@dataclass(frozen=True)
class Summary:
    """A finished measurement without its rounds: what it was of, and its verdict.

    `throttled` says whether any round was.
    """

    id: int
    series: str
    label: str
    target: Mapping[str, str]
    stable: bool
    statistics: Statistics
    throttled: bool = False


class MeasurementDatabase:
    """Measurements in SQLite, or in any database SQLAlchemy has a URL for."""

    def __init__(self, where: str | Path) -> None:
        """Open or make the database at a path or URL; UsageError when it cannot be used."""
        self.where = str(where)
        self._engine = connect(where)

    def __enter__(self) -> MeasurementDatabase:
        """Return the database itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def begin(self, header: Header) -> int:
        """Record that a measurement begins and return its id."""
        names = {column.name for column in measurement.columns} - {"id", "key", "created_ns"}
        row = {name: getattr(header, name) for name in names}
        row |= {"fingerprint": dict(header.fingerprint), "target": dict(header.target)}
        row |= {"key": header.key, "created_ns": time.time_ns()}
        with self._writing() as connection:
            key = connection.execute(measurement.insert().values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def append(self, measurement_id: int, metric: Metric, round: Round) -> None:
        """Record a finished round; it survives whatever happens next.

        Raises UsageError when the round is there already: another process measures the same.
        """
        row: dict[str, Any] = {FIELDS[kind]: _pack(readings(round, metric, kind)) for kind in FIELDS}
        row |= {"before": asdict(round.before), "after": asdict(round.after)}
        row |= {"affinity": list(round.affinity), "created_ns": time.time_ns()}
        row |= {"duration_ns": round.duration_ns, "canary_ns": round.canary_ns}
        with self._writing() as connection:
            connection.execute(
                round_.insert().values(measurement_id=measurement_id, index=round.index, **row)
            )

    def note(self, measurement_id: int, text: str) -> None:
        """Record an incident of a measurement: a fault, or a wait."""
        row = {"measurement_id": measurement_id, "text": text, "created_ns": time.time_ns()}
        with self._writing() as connection:
            connection.execute(incident.insert().values(row))

    def incidents(self, measurement_id: int) -> tuple[str, ...]:
        """Return the incidents of a measurement, oldest first."""
        chosen = sa.select(incident.c.text).where(incident.c.measurement_id == measurement_id)
        with self._reading() as connection:
            return tuple(connection.execute(chosen.order_by(incident.c.id)).scalars())

    def finish(self, measurement_id: int, conclusion: Conclusion) -> None:
        """Close a measurement with its verdict."""
        row = {
            "stable": conclusion.stable,
            "throttled_rounds": [r.index for r in conclusion.rounds if r.throttled],
            "noisy_rounds": [r.index for r in conclusion.rounds if r.noisy],
            "statistics": asdict(conclusion.statistics),
            "created_ns": time.time_ns(),
        }
        with self._writing() as connection:
            connection.execute(finished.insert().values(measurement_id=measurement_id, **row))

    def unfinished(self, key: str) -> int | None:
        """Return the id of the latest measurement of a key that was begun and not finished."""
        ids = [row.id for row in self._rows(key=key) if row.stable is None]
        return ids[-1] if ids else None

    def rounds(self, measurement_id: int) -> tuple[Round, ...]:
        """Return the rounds of a measurement in order, marked as its verdict says (if there is one)."""
        with self._reading() as connection:
            row = connection.execute(_joined().where(measurement.c.id == measurement_id)).one_or_none()
        if row is None:
            raise UsageError(f"{self.where!r} holds no measurement {measurement_id}")
        return self._rounds_of(row)

    def measurements(self, **equal: object) -> tuple[Measurement, ...]:
        """Return finished measurements, oldest first, whose columns equal the given values.

        Any column of the table `measurement` can be given: `graph_digest`, `profile`, `metric`,
        `key`, ...; UsageError for another name.
        """
        return tuple(self._measurement(row) for row in self._rows(**equal) if row.stable is not None)

    def latest(self, **equal: object) -> Measurement | None:
        """Return the newest finished measurement that `measurements` would return, or None."""
        rows = [row for row in self._rows(**equal) if row.stable is not None]
        return self._measurement(rows[-1]) if rows else None

    def summaries(self, series_start: str, **equal: object) -> tuple[Summary, ...]:
        """Return finished measurements whose series begins with a text, oldest first, without rounds.

        Other columns are given as in `measurements`. No samples are read, so that a table of
        thousands of kernels is one query.
        """
        begins = measurement.c.series.startswith(series_start, autoescape=True)
        rows = [row for row in self._rows(begins, **equal) if row.stable is not None]
        return tuple(
            Summary(
                row.id,
                row.series,
                row.label,
                row.target,
                row.stable,
                Statistics(**row.statistics),
                bool(row.throttled_rounds),
            )
            for row in rows
        )

    def _rows(self, *where: sa.ColumnElement[bool], **equal: object) -> list[Any]:
        unknown = sorted(equal.keys() - {column.name for column in measurement.columns})
        if unknown:
            accepted = ", ".join(column.name for column in measurement.columns)
            raise UsageError(f"a measurement has no column {unknown[0]!r}; accepted: {accepted}")
        query = _joined().where(*where).order_by(measurement.c.id)
        for name, value in equal.items():
            query = query.where(measurement.c[name] == value)
        with self._reading() as connection:
            return list(connection.execute(query))

    def _measurement(self, row: Any) -> Measurement:
        names = Measurement.__dataclass_fields__.keys() - {"rounds", "statistics", "metric", "incidents"}
        values = {name: getattr(row, name) for name in names}
        statistics = Statistics(**row.statistics)
        return Measurement(
            **values,
            metric=Metric(row.metric),
            rounds=self._rounds_of(row),
            statistics=statistics,
            incidents=self.incidents(row.id),
        )

    def _rounds_of(self, row: Any) -> tuple[Round, ...]:
        query = round_.select().where(round_.c.measurement_id == row.id).order_by(round_.c.index)
        with self._reading() as connection:
            found = connection.execute(query).mappings().all()
        throttled, noisy = row.throttled_rounds or (), row.noisy_rounds or ()
        return tuple(_round(dict(r), Metric(row.metric), throttled, noisy) for r in found)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.execution_options(writes=True).begin() as connection:
                yield connection
        except sa.exc.IntegrityError as error:
            raise UsageError(
                f"another process writes the same measurement to {self.where!r} ({reason(error)}); "
                f"wait for it, or measure under another series"
            ) from error
        except sa.exc.DBAPIError as error:
            raise UsageError(f"cannot write to the database {self.where!r}: {reason(error)}") from error

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise UsageError(f"cannot read the database {self.where!r}: {reason(error)}") from error


def fingerprint_digest(fingerprint: Mapping[str, str]) -> str:
    """Return the digest of a device's fingerprint, 16 hexadecimal digits."""
    return _digest(dict(fingerprint))


def _joined() -> sa.Select[Any]:
    verdict = [c for c in finished.columns if c.name not in ("measurement_id", "created_ns")]
    return sa.select(measurement, *verdict).select_from(measurement.outerjoin(finished))


def _round(row: Mapping[str, Any], metric: Metric, throttled: Sequence[int], noisy: Sequence[int]) -> Round:
    samples = {kind: _unpack(row[name]) for kind, name in FIELDS.items() if row[name] is not None}
    return Round(
        index=row["index"],
        samples=samples.pop(metric, ()),
        before=_state(row["before"]),
        after=_state(row["after"]),
        affinity=tuple(row["affinity"]),
        throttled=row["index"] in throttled,
        noisy=row["index"] in noisy,
        also=samples,
        duration_ns=row["duration_ns"],
        canary_ns=row["canary_ns"],
    )


def _state(fields: Mapping[str, Any]) -> DeviceState:
    return DeviceState(**{**fields, "frequency_mhz": tuple(fields["frequency_mhz"])})


def _pack(samples: tuple[int, ...]) -> bytes | None:
    return np.asarray(samples, dtype="<i8").tobytes() if samples else None


def _unpack(blob: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(blob, dtype="<i8").tolist())


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
