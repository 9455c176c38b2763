"""A PostgreSQL server as the measurement database of a team, and as the keeper of its leases.

The driver is psycopg 3 unless the URL names another. `CONNECT_S` bounds the wait for a server that does
not answer, and a connection the server dropped while nobody used it is made anew.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

import sqlalchemy as sa

from compiler.errors import UsageError

NAMES = ("postgresql", "postgres")  # libpq takes both in a URL
DRIVER = "psycopg"
CONNECT_S = 10
HINT = "pip install 'edgewright[postgres]'"
PREPARE_LOCK = 0x65646765  # any number that all of us use, and nobody else
KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
WHO = """
    SELECT activity.application_name AS name, activity.backend_start AS since
    FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND ((classid::bigint << 32) | objid::bigint) = :key
"""


def with_driver(url: sa.URL) -> sa.URL:
    """Return a URL that says by which driver the server is reached."""
    return url.set(drivername=f"postgresql+{DRIVER}") if url.drivername in NAMES else url


def create_engine(url: sa.URL) -> sa.Engine:
    """Return an engine on a server; nothing is connected yet. ImportError where the driver is missing."""
    own = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}
    try:
        return sa.create_engine(url, pool_pre_ping=True, connect_args=own)
    except ImportError as error:
        raise ImportError(f"its driver is not installed ({error}); {HINT}") from error


def lock_schema(connection: sa.Connection) -> None:
    """Let one process at a time look for the tables and make them, until the transaction ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(PREPARE_LOCK)))


class ServerLock:
    """A lock among all who use one database, held by a connection and gone with it.

    A host that vanishes is noticed by keep-alives within `KEEPALIVE` seconds. (A pooler in between
    that shares connections between transactions would break this; connect to the server itself.)
    """

    def __init__(self, engine: sa.Engine, name: str, holder: str) -> None:
        """Name the lock, and say what the server tells others of us."""
        self._engine = engine
        self._key = int.from_bytes(hashlib.sha256(f"edgewright {name}".encode()).digest()[:8], signed=True)
        self._holder = holder
        self._connection: sa.Connection | None = None

    def take(self) -> str:
        """Take the lock and return ""; return who has it where it is taken."""
        try:
            return self._take()
        except sa.exc.DBAPIError as error:
            why = str(error.orig).splitlines()[0]
            raise UsageError(f"cannot take a lease on the database's server: {why}") from error

    def release(self) -> None:
        """Give the lock back; a connection that broke has done so."""
        if self._connection is not None:
            with suppress(sa.exc.DBAPIError):
                self._connection.close()
            self._connection = None

    def _take(self) -> str:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.detach()  # never given to another: closing it ends the session, and so the lock
            for setting, value in {"application_name": self._holder, **KEEPALIVE}.items():
                connection.execute(sa.select(sa.func.set_config(setting, str(value), False)))
            if connection.execute(sa.select(sa.func.pg_try_advisory_lock(self._key))).scalar():
                self._connection = connection
                return ""
            return self._who(connection)
        finally:
            if self._connection is None:
                connection.close()

    def _who(self, connection: sa.Connection) -> str:
        found = connection.execute(sa.text(WHO), {"key": self._key}).one_or_none()
        if found is None:  # just released, or of a user whose sessions we may not see
            return "another process"
        return f"{found.name or 'another process'}, since {found.since:%Y-%m-%d %H:%M}"
