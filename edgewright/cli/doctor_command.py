"""`edgewright doctor`: what is missing, and the next command for each."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from edgewright.cli import options, show
from edgewright.cli.output import emit_json, working


def doctor_command(
    device: Annotated[
        str | None, typer.Option(callback=options.expand_device, help="Examine this device too.")
    ] = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Check packages, toolchain, database, adb and a device, and say the next step for each problem."""
    with working("doctor") as progress:
        progress("start")
        from devices.transports.adb.address import server_port
        from edgewright.doctor import Surroundings, examine
        from edgewright.doctor.examination import document

        port = server_port(os.environ)
        here = Surroundings(
            database=options.database_url(database),
            device=device,
            adb_port=port,
        )
        found = document(here, examine(here, progress))
    emit_json(found) if as_json else show.examination(found)
    raise typer.Exit(found["exit_code"])
