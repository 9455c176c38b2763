"""End a process with all it has started, runners in sessions of their own too."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

GRACE_S = 10.0


def end(process: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """Ask a process to end, and after `grace_s` kill it and its descendants."""
    below = descendants(process.pid) if process.poll() is None else []
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        below += descendants(process.pid)
        process.kill()
        process.wait()
        _kill(below)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those started by them."""
    parents = dict(_parents())
    found: list[int] = []
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += level
    return found


def _parents() -> Iterable[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])


def _kill(pids: Iterable[int]) -> None:
    for pid in set(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
