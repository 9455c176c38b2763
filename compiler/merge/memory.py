"""Memory that a merge has freed, given back to the system.

A merge allocates double-precision temporaries around each weight that stays. The C library keeps the holes
between the weights, and the process would hold twice the memory it uses (`benchmarks/merge_scaling.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

EVERY = 32  # regions; one call takes milliseconds


def give_back() -> None:
    """Return free pages of the heap to the system, where the C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim  # glibc
    except (AttributeError, OSError):
        return None
    return found
