"""A database of the version before opens with all its rows, and gains what this version has."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from compiler.records import DeviceState, Metric, Round, Statistics
from devices.database import Header, MeasurementDatabase
from devices.schema import ADDED, VERSION

OLD = """
CREATE TABLE edgewright_schema (version INTEGER NOT NULL PRIMARY KEY);
CREATE TABLE measurement (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "key" VARCHAR(64) NOT NULL, series TEXT NOT NULL,
    label TEXT NOT NULL, graph_digest VARCHAR(64) NOT NULL, artifact_digest VARCHAR(64) NOT NULL,
    plan_digest VARCHAR(64) NOT NULL, "plan" TEXT NOT NULL, target JSON NOT NULL, profile TEXT NOT NULL,
    profile_digest VARCHAR(64) NOT NULL, protocol_digest VARCHAR(64) NOT NULL, device TEXT NOT NULL,
    fingerprint JSON NOT NULL, fingerprint_digest VARCHAR(64) NOT NULL, metric VARCHAR(32) NOT NULL,
    threads INTEGER NOT NULL, load_ns BIGINT NOT NULL, first_ns BIGINT NOT NULL, created_ns BIGINT NOT NULL
);
CREATE TABLE round (
    measurement_id INTEGER NOT NULL, "index" INTEGER NOT NULL, wall_ns BLOB, cpu_ns BLOB, instructions BLOB,
    before JSON NOT NULL, after JSON NOT NULL, affinity JSON NOT NULL, created_ns BIGINT NOT NULL,
    PRIMARY KEY (measurement_id, "index"), FOREIGN KEY(measurement_id) REFERENCES measurement (id)
);
CREATE TABLE finished (
    measurement_id INTEGER NOT NULL PRIMARY KEY, stable BOOLEAN NOT NULL, throttled_rounds JSON NOT NULL,
    noisy_rounds JSON NOT NULL, statistics JSON NOT NULL, created_ns BIGINT NOT NULL,
    FOREIGN KEY(measurement_id) REFERENCES measurement (id)
);
CREATE TRIGGER round_no_update BEFORE UPDATE ON round
    BEGIN SELECT RAISE(ABORT, 'measurements are append-only'); END;
INSERT INTO edgewright_schema VALUES (1);
"""
HEADER = Header("a", "g", "p", "host", "d", "q", "local", {"machine": "m"}, Metric.WALL, 1, load_ns=3)
STATISTICS = {
    "count": 3, "median": 2.0, "low": 1.0, "high": 3.0, "p90": 3.0, "p99": 3.0, "minimum": 1.0
}  # fmt: skip
STATE = DeviceState(5, 41.5, (1000.0,), "schedutil", 0.25, 80.0, "none")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database as version 1 wrote it: a finished measurement, and one that was interrupted."""
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(OLD)
    state = json.dumps({k: v for k, v in asdict(STATE).items() if k not in ("battery_c", "screen_on")})
    samples = np.array([1, 2, 3], dtype="<i8").tobytes()
    for row in (1, 2):
        facts = (row, HEADER.key, "", "m", "g", "a", "p", "", "{}", "host", "d", "q", "local",
                 '{"machine": "m"}', HEADER.fingerprint_digest, "wall", 1, 3, 4, 9)  # fmt: skip
        connection.execute(f"INSERT INTO measurement VALUES ({','.join('?' * 20)})", facts)
        connection.execute(
            "INSERT INTO round VALUES (?, 0, ?, NULL, NULL, ?, ?, '[0]', 9)", (row, samples, state, state)
        )
    connection.execute("INSERT INTO finished VALUES (1, 1, '[]', '[]', ?, 9)", (json.dumps(STATISTICS),))
    connection.commit()
    connection.close()
    return path


def test_an_old_database_opens_with_its_rows(old: Path) -> None:
    with MeasurementDatabase(old) as database:
        (found,) = database.measurements()
        assert found.statistics == Statistics(**STATISTICS)
        assert (found.statistics.p90_low, found.peak_rss_bytes, found.incidents) == (None, None, ())
        (made,) = found.rounds
        assert (made.samples, made.before, made.duration_ns) == ((1, 2, 3), STATE, None)
        assert database.unfinished(HEADER.key) == 2


def test_it_gains_what_this_version_has_once(old: Path) -> None:
    for _ in range(2):
        MeasurementDatabase(old).close()
    plain = sqlite3.connect(old)
    assert plain.execute("SELECT version FROM edgewright_schema").fetchall() == [(1,), (VERSION,)]
    for column in ADDED:
        names = [row[1] for row in plain.execute(f'PRAGMA table_info("{column.table.name}")')]
        assert names.count(column.name) == 1
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        plain.execute("UPDATE round SET created_ns = 0")
    plain.close()


def test_a_new_round_and_an_incident_go_into_an_old_database(old: Path) -> None:
    with MeasurementDatabase(old) as database:
        new = Round(1, (7,), STATE, STATE, duration_ns=5, canary_ns=6)
        database.append(2, Metric.WALL, new)
        database.note(2, "fault 1: it fell")
        assert database.rounds(2)[1] == new
        assert database.incidents(2) == ("fault 1: it fell",)
    plain = sqlite3.connect(old)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        plain.execute("DELETE FROM incident")
    plain.close()
