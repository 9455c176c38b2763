"""The host's clock, as a value: what waits or takes time by it can be tested by a scripted one.

Durations come from a monotonic clock only. A device's wall clock may be set at any moment, and stands
in its states for information.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Tells seconds of a monotonic clock, and waits."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


HOST = Clock()
