"""A benchmark program of the user's: how it is asked, and how what it prints is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from compiler.errors import DeviceError

NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)"  # what C++ prints of a float
TAIL = 300


@dataclass(frozen=True)
class Reading:
    """What one start of the program tells, in nanoseconds; 0 for what it does not."""

    mean_ns: int
    load_ns: int = 0
    first_ns: int = 0


@dataclass(frozen=True)
class Tool:
    """A program: its arguments, `{threads}`, `{runs}` and `{program}` to be filled in, and its reader.

    `threads` is the option that states the threads.
    """

    name: str
    threads: str
    arguments: tuple[str, ...]
    read: Callable[[str, int], Reading]


def find(pattern: str, text: str, tool: str) -> re.Match[str]:
    """Return where a pattern stands in what a tool printed; DeviceError with its last words."""
    found = re.search(pattern, text)
    if found is None:
        raise DeviceError(
            f"{tool} printed no times that can be read; its last words: {text.strip()[-TAIL:]!r}"
        )
    return found
