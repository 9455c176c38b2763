"""Whether measurements can be kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from compiler.errors import UsageError
from devices.connection import connect
from edgewright.doctor.finding import Finding, Status, Surroundings

NEXT = "name another one with --database"


def check(here: Surroundings) -> Iterator[Finding]:
    """Open the database that is there, or see that it can be made; it is not made here."""
    file = None if "://" in here.database else Path(here.database)
    if file is not None and not file.exists():
        yield _to_be_made(file)
        return
    try:
        connect(here.database).dispose()
    except UsageError as error:
        yield Finding("database", Status.FAIL, str(error), NEXT)
    else:
        yield Finding("database", Status.PASS, f"{here.database} can be written")


def _to_be_made(file: Path) -> Finding:
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Finding("database", Status.PASS, f"{file} will be made with the first measurement")
    return Finding(
        "database", Status.FAIL, f"{file} cannot be made: {folder} is not a folder to write in", NEXT
    )
