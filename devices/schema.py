"""The tables of the measurement database.

Append-only tables: `measurement` says what was measured and how, `round` holds the samples of each
finished round, a row of `incident` a fault or a wait on the way, and a row of `finished` closes a
measurement with its verdict. A row of
`schedule_trial` is a schedule that was tried for a kernel, one of `program` what a program that was measured
whole consists of; a database from before one of these tables gains it when its first row is written
(`devices/schedules.py`, `devices/programs.py`), so that the version stays. The database itself
refuses to change or delete a row (`devices/append_only.py`). Samples are little-endian 64-bit integers,
one blob for each metric; what has structure is JSON. `edgewright_schema` holds the version of all this:
its largest.

Version 2 adds the table `incident`, columns that may be NULL (`ADDED`), and bounds of the tails in
`statistics`. A database of version 1 gains them when it is opened (`devices/connection.py`).
"""

from __future__ import annotations

import sqlalchemy as sa

from devices.append_only import keep_rows

VERSION = 2
OLDEST = 1  # that is brought up to VERSION

metadata = sa.MetaData()

schema = sa.Table("edgewright_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))

measurement = sa.Table(
    "measurement",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("series", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("graph_digest", sa.String(64), nullable=False, index=True),
    sa.Column("artifact_digest", sa.String(64), nullable=False, index=True),
    sa.Column("plan_digest", sa.String(64), nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("target", sa.JSON, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("profile_digest", sa.String(64), nullable=False),
    sa.Column("protocol_digest", sa.String(64), nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.JSON, nullable=False),
    sa.Column("fingerprint_digest", sa.String(64), nullable=False),
    sa.Column("metric", sa.String(32), nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("load_ns", sa.BigInteger, nullable=False),
    sa.Column("first_ns", sa.BigInteger, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("peak_rss_bytes", sa.BigInteger),
    # On SQLite, an id is never given twice.
    sqlite_autoincrement=True,
)

round_ = sa.Table(
    "round",
    metadata,
    sa.Column("measurement_id", sa.ForeignKey("measurement.id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("wall_ns", sa.LargeBinary),
    sa.Column("cpu_ns", sa.LargeBinary),
    sa.Column("instructions", sa.LargeBinary),
    sa.Column("before", sa.JSON, nullable=False),
    sa.Column("after", sa.JSON, nullable=False),
    sa.Column("affinity", sa.JSON, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("duration_ns", sa.BigInteger),
    sa.Column("canary_ns", sa.BigInteger),
)

incident = sa.Table(
    "incident",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("measurement_id", sa.ForeignKey("measurement.id"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

finished = sa.Table(
    "finished",
    metadata,
    sa.Column("measurement_id", sa.ForeignKey("measurement.id"), primary_key=True, autoincrement=False),
    sa.Column("stable", sa.Boolean, nullable=False),
    sa.Column("throttled_rounds", sa.JSON, nullable=False),
    sa.Column("noisy_rounds", sa.JSON, nullable=False),
    sa.Column("statistics", sa.JSON, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
)

schedule_trial = sa.Table(
    "schedule_trial",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kernel", sa.String(64), nullable=False, index=True),
    sa.Column("conditions", sa.JSON, nullable=False),
    sa.Column("conditions_digest", sa.String(64), nullable=False, index=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("latency", sa.Float(53)),
    sa.Column("baseline", sa.Float(53), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

program = sa.Table(
    "program",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("graph", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

ADDED = (
    measurement.c.size_bytes,
    measurement.c.peak_rss_bytes,
    round_.c.duration_ns,
    round_.c.canary_ns,
)

for _table in (measurement, round_, incident, finished, schedule_trial, program):
    keep_rows(_table)
