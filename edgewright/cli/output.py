"""What the command line writes: tables or one JSON document on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from edgewright.cli.interrupt import check

ERROR_SCHEMA = "edgewright.error/1"
WIDTH = 110  # of tables that go to a file or a pipe


def emit_json(document: Mapping[str, Any]) -> None:
    """Write the one JSON document of a command."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def stdout_for_json(wanted: bool) -> Iterator[None]:
    """Keep the process's stdout for the document: what C++ libraries print meanwhile goes to stderr."""
    if not wanted or sys.stdout is not sys.__stdout__:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as own, contextlib.redirect_stdout(own):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C holds back until the process ends is no document either
        os.dup2(kept, 1)
        os.close(kept)


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write one table; numbers stand right, text left."""
    table = Table(box=None, pad_edge=False)
    table.show_header = any(columns)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    out = stdout()
    out.print(title, style="bold", highlight=False, markup=False)
    out.print(table, highlight=False)
    out.print()


def cell(value: object) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("[", "\\[")


def emit_error(code: int, kind: str, message: str, as_json: bool) -> None:
    """Tell an error on stderr in one paragraph, and as the JSON document where one is asked for."""
    sys.stderr.write(f"edgewright: {message}\n")
    if as_json:
        emit_json({"schema": ERROR_SCHEMA, "exit_code": code, "error": kind, "message": message})


def stdout() -> Console:
    """Return a console on stdout; outside a terminal its width is fixed, so that output is stable."""
    return Console(file=sys.stdout, emoji=False, width=None if sys.stdout.isatty() else WIDTH)


@contextlib.contextmanager
def working(label: str) -> Iterator[Callable[[str], None]]:
    """Yield a progress callback: a live line on a terminal, plain lines elsewhere.

    Whatever a model's or an SDK's own code prints meanwhile goes to stderr.
    """
    # A copy of the descriptor: an SDK's own may be silenced while it works, the live line goes on.
    file = os.fdopen(os.dup(2), "w", encoding="utf-8") if sys.stderr.isatty() else sys.stderr
    console = Console(file=file, highlight=False)
    start = time.monotonic()

    def line(message: str) -> None:
        check()
        text = f"{time.monotonic() - start:7.1f} s  {label}: {message}"
        console.print(text, markup=False, soft_wrap=True)

    with contextlib.redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield line
            return
        with console.status(label) as status:

            def live(message: str) -> None:
                check()
                status.update(f"{label}: {message}".replace("[", "\\["))

            yield live
