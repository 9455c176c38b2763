"""A PostgreSQL server as the measurement database of a team.

The driver is psycopg 3 unless the URL names another. `CONNECT_S` bounds the wait for a server that does
not answer, and a connection the server dropped while nobody used it is made anew.
"""

from __future__ import annotations

import sqlalchemy as sa

NAMES = ("postgresql", "postgres")  # libpq takes both in a URL
DRIVER = "psycopg"
CONNECT_S = 10
HINT = "pip install 'edgewright[postgres]'"
PREPARE_LOCK = 0x65646765  # any number that all of us use, and nobody else


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
