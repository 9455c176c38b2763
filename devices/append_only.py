"""Triggers by which the database itself refuses to change or delete a row, whoever asks.

SQLite and PostgreSQL have them; in another database, only this code's discipline keeps rows as they are.
"""

from __future__ import annotations

import sqlalchemy as sa

MESSAGE = "measurements are append-only"


def keep_rows(table: sa.Table) -> None:
    """Make the database refuse changes of a table's rows from the moment it is created."""
    for dialect, statements in (("sqlite", _sqlite(table.name)), ("postgresql", _postgresql(table.name))):
        for statement in statements:
            ddl = sa.DDL(statement)  # type: ignore[no-untyped-call]  # SQLAlchemy left it untyped
            sa.event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


def _sqlite(table: str) -> list[str]:
    return [
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
        for verb in ("UPDATE", "DELETE")
    ]


def _postgresql(table: str) -> list[str]:
    # 23001 is restrict_violation: an integrity error, as SQLite's is. TRUNCATE fires no row trigger.
    function = (
        "CREATE OR REPLACE FUNCTION edgewright_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = '23001'; END $$"
    )
    events = {"no_change": ("UPDATE OR DELETE", "ROW"), "no_truncate": ("TRUNCATE", "STATEMENT")}
    triggers = [
        f'CREATE TRIGGER {table}_{name} BEFORE {verbs} ON "{table}" '
        f"FOR EACH {unit} EXECUTE FUNCTION edgewright_append_only()"
        for name, (verbs, unit) in events.items()
    ]
    return [function, *triggers]
