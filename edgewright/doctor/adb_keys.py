"""The keys that a phone knows this machine by."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from edgewright.doctor.finding import Finding, Status, Surroundings

PLACES = (".config/edgewright/adbkey", ".android/adbkey")


def check(here: Surroundings) -> Iterator[Finding]:
    """See that a private key is there and nobody else can read it."""
    if not here.over_adb:
        return
    keys = [here.home / place for place in PLACES if (here.home / place).exists()]
    yield from (_private(key) for key in keys)
    if not keys:
        says = f"none yet, neither {' nor '.join('~/' + place for place in PLACES)}"
        step = "none: it is made with the first connection, and the phone then asks you to accept it"
        yield Finding("adb key", Status.WARN, says, step)


def _private(key: Path) -> Finding:
    mode = key.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding(
            "adb key",
            Status.FAIL,
            f"{key} has mode {mode:04o}: others can read it",
            f"chmod 600 {shlex.quote(str(key))}",
        )
    return Finding("adb key", Status.PASS, f"{key}, mode {mode:04o}")
