"""`edgewright doctor`: what is missing, and the next command for each."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from edgewright.cli import options, show
from edgewright.cli.output import emit_json, working


def doctor_command(
    device: Annotated[str | None, typer.Option(help="Examine this device too.")] = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Check packages, toolchain, database, adb and a device, and say the next step for each problem."""
    with working("doctor") as progress:
        progress("start")
        from edgewright.doctor import Surroundings, examine
        from edgewright.doctor.adb_server import ADB_PORT
        from edgewright.doctor.examination import document

        port = os.environ.get("ANDROID_ADB_SERVER_PORT", "")
        here = Surroundings(
            database=options.database_url(database),
            device=device,
            adb_port=int(port) if port.isdigit() else ADB_PORT,
        )
        found = document(here, examine(here, progress))
    emit_json(found) if as_json else show.examination(found)
    raise typer.Exit(found["exit_code"])
