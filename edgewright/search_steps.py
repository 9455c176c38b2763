"""What a search tells of its long steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from devices.benchmark import Progress as Event
from edgewright.stages import Progress

EVERY_S = 2.0


def told(progress: Progress, variants: int) -> Callable[[Event], None]:
    """Return a callback that tells of runners that are up and of every eighth round of all variants."""
    ready = made = 0

    def tell(event: Event) -> None:
        nonlocal ready, made
        if event.event == "ready":
            ready += 1
            progress(f"measure: {ready} of {variants} runners are warm")
        elif event.event == "round":
            made += 1
            if made % (8 * variants) == 0:
                progress(f"measure: {made // variants} rounds of {variants} variants")

    return tell


def counted(progress: Progress, label: str) -> Callable[[int, int], None]:
    """Return a callback of (done, total) that tells every few seconds on the way, and at the end."""
    told_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if done == total or time.monotonic() - told_at > EVERY_S:
            told_at = time.monotonic()
            progress(f"{label}: {done} of {total}")

    return tell
