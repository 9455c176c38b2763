"""What programs that were measured whole consist of, in the measurement database: one row a program.

The latency of a whole program corrects sums of kernels (`compiler.cost.correction`) only where its kernels
are known. A row holds its label, which its measurements have too, and its graph as text IR without weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import sqlalchemy as sa

from devices.database import MeasurementDatabase
from devices.schema import program


def keep_program(database: MeasurementDatabase, label: str, graph: str) -> None:
    """Write what a program consists of where that is not known yet."""
    with database._writing() as connection:
        program.create(connection, checkfirst=True)
        known = sa.select(program.c.id).where(program.c.label == label)
        if connection.execute(known).first() is None:
            row = {"label": label, "graph": graph, "created_ns": time.time_ns()}
            connection.execute(program.insert().values(row))


def kept_programs(database: MeasurementDatabase) -> Mapping[str, str]:
    """Return the graph of each program that is known, by label."""
    with database._reading() as connection:
        if not sa.inspect(connection).has_table(program.name):
            return {}
        rows = connection.execute(sa.select(program.c.label, program.c.graph).order_by(program.c.id))
        return {row.label: row.graph for row in rows}
