"""Open the measurement database, and say plainly when it cannot be.

SQLite runs in WAL mode with `synchronous=FULL`: a committed round survives `kill -9` and a power
cut. Transactions that write begin by taking the write lock and wait for other writers up to
`BUSY_S`, so that several processes may measure into one file.

A database of an older version is brought up to this one when it is opened: whatever a version adds
is a table, or a column that may be NULL, so that no row changes and nothing is lost. An edgewright of
before then refuses it and says why.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from compiler.errors import UsageError
from devices.schema import ADDED, OLDEST, VERSION, incident, metadata, schema

BUSY_S = 60


def connect(where: str | Path) -> sa.Engine:
    """Return an engine on the database at a path (SQLite) or an SQLAlchemy URL, its tables in place.

    Raises UsageError when it cannot be opened, is not ours, or is of another version.
    """
    text = str(where)
    is_url = isinstance(where, str) and "://" in where
    engine: sa.Engine | None = None
    try:
        engine = _engine(sa.make_url(text) if is_url else _file_url(Path(text)))
        _prepare(engine)
    except UsageError as error:
        _close(engine)
        raise UsageError(f"{text!r} is not a measurement database of edgewright: {error}") from error
    except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
        _close(engine)
        raise UsageError(f"cannot use {text!r} as the measurement database: {reason(error)}") from error
    return engine


def reason(error: Exception) -> str:
    """Return what a database error says, without the statement SQLAlchemy appends."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _close(engine: sa.Engine | None) -> None:
    if engine is not None:
        engine.dispose()


def _file_url(path: Path) -> sa.URL:
    path.parent.mkdir(parents=True, exist_ok=True)
    return sa.URL.create("sqlite", database=str(path.absolute()))


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_S})
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not begin transactions by itself: `_begin_sqlite` does.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables or schema.name in tables:  # the mode is kept in the file: leave another's as it is
        connection.execute("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads and then writes cannot wait for another writer unless it took the
    # write lock first.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare(engine: sa.Engine) -> None:
    with engine.execution_options(writes=True).begin() as connection:
        tables = sa.inspect(connection).get_table_names()
        if schema.name in tables:
            _check_version(connection)
        elif tables and engine.dialect.name == "sqlite":
            raise UsageError(f"it holds other tables ({', '.join(sorted(tables)[:5])})")
        else:
            metadata.create_all(connection)
            connection.execute(schema.insert().values(version=VERSION))


def _check_version(connection: sa.Connection) -> None:
    found: Any = connection.execute(sa.select(sa.func.max(schema.c.version))).scalar()
    if isinstance(found, int) and OLDEST <= found < VERSION:
        _bring_up(connection)
    elif found != VERSION:
        raise UsageError(f"its schema is version {found}, this edgewright reads version {VERSION}")


def _bring_up(connection: sa.Connection) -> None:
    """Add what this version has and an older one has not, in the transaction that looked."""
    inspector = sa.inspect(connection)
    incident.create(connection, checkfirst=True)
    quote = connection.dialect.identifier_preparer
    for column in ADDED:
        there = {known["name"] for known in inspector.get_columns(column.table.name)}
        if column.name not in there:
            kind = column.type.compile(connection.dialect)
            table, name = quote.format_table(column.table), quote.format_column(column)
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    connection.execute(schema.insert().values(version=VERSION))
