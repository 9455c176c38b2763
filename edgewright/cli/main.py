"""From an error to an exit code: the one place where every failure ends.

0 done, 1 internal fault, 2 usage or unreadable input, 3 cannot be exported or lowered, 4 numeric
check failed, 5 device missing or lost, 6 budget infeasible, 7 measurement too unstable, 8 fallback
above the limit, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import typer

from compiler.errors import EdgewrightError
from edgewright.cli.interrupt import terminable
from edgewright.cli.output import emit_error, stdout_for_json

INTERRUPTED = 130
STOPPED = "interrupted: no half-written artifact is left; a search or a measurement goes on when run again"
# Typer keeps click's exceptions to itself; all of its usage errors descend from this one.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises, except with `--debug`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with stdout_for_json("--json" in arguments):
        return _told(arguments)


def _told(arguments: list[str]) -> int:
    """Run one command, tell how it failed, and return its exit code."""
    debug = "--debug" in arguments
    as_json = "--json" in arguments
    before = logging.root.manager.disable
    if not debug:
        logging.disable(logging.WARNING)  # torch logs the traceback of what it then raises, which we tell
    try:
        code = _run([a for a in arguments if a != "--debug"])
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
        emit_error(code, "Interrupted", STOPPED, as_json)
    except EdgewrightError as error:
        if debug:
            raise
        code = error.exit_code
        emit_error(code, type(error).__name__, str(error), as_json)
    except _ClickException as error:
        code = 2
        emit_error(code, "UsageError", error.format_message(), as_json)
    except Exception as error:  # the last line of defence: a fault of ours, told in a line
        if debug:
            raise
        code = 1
        text = f"internal fault: {type(error).__name__}: {error}; run again with --debug for the traceback"
        emit_error(code, type(error).__name__, text, as_json)
    finally:
        logging.disable(before)
    return code


def _run(arguments: list[str]) -> int:
    from edgewright.cli.app import app

    with terminable():
        result = typer.main.get_command(app).main(arguments, prog_name="edgewright", standalone_mode=False)
    code = result if isinstance(result, int) else 0
    if code == INTERRUPTED:  # typer turns Ctrl-C into a silent exit
        raise KeyboardInterrupt
    return code
