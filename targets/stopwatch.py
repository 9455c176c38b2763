"""Seconds by stage of a lowering, for its report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add what the block takes to `seconds[stage]`."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds to the millisecond."""
    return {stage: round(value, 3) for stage, value in seconds.items()}
