"""The interpreter: edgewright's runtimes are pinned for one version of Python."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator

from edgewright.doctor.finding import Finding, Status, Surroundings

NEEDED = (3, 11)


def check(here: Surroundings) -> Iterator[Finding]:
    """Compare the version of Python with the one that is needed."""
    if sys.version_info[:2] == NEEDED:
        yield Finding("python", Status.PASS, f"Python {platform.python_version()}")
    else:
        needed = ".".join(map(str, NEEDED))
        yield Finding(
            "python",
            Status.FAIL,
            f"this is Python {platform.python_version()}, the runtimes are pinned for {needed}",
            f"python{needed} -m venv .venv && .venv/bin/pip install edgewright",
        )
