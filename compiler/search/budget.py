"""The latency budget: an absolute time, a count of instructions, or a multiple of the merged float model's.

    12ms   800us   1.5s   3.2Minsn   0.7x

A ratio is judged against the float model measured interleaved in the same run, so that drift of
the machine cancels; an absolute time against what the clock said. An emulated board counts instructions.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from compiler.errors import UsageError

ACCEPTED = "12ms, 800us, 1.5s, 3.2Minsn, or 0.7x (a multiple of the merged float model's latency)"
_TEXT = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>ns|us|µs|ms|s|Minsn|x)\Z")
_NANOSECONDS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class Budget:
    """An upper bound on latency; exactly one of the fields is set."""

    nanoseconds: float | None = None
    ratio: float | None = None
    instructions: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.nanoseconds, self.ratio, self.instructions) if v is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            raise UsageError(f"a latency budget is one number above 0; accepted: {ACCEPTED}")

    def limit(self, own: float) -> float:
        """Return the budget as a multiple of the float model's own latency, in its metric's unit."""
        return self.ratio if self.ratio is not None else self._absolute / own

    @property
    def _absolute(self) -> float:
        absolute = self.nanoseconds if self.nanoseconds is not None else self.instructions
        assert absolute is not None
        return absolute

    def __str__(self) -> str:
        """Return the budget as `--latency-budget` takes it."""
        if self.ratio is not None:
            return f"{self.ratio:g}x"
        return f"{self._absolute / 1e6:g}{'ms' if self.instructions is None else 'Minsn'}"


def parse_budget(text: str) -> Budget:
    """Read a budget such as `12ms` or `0.7x`; raises UsageError showing the accepted forms."""
    match = _TEXT.match(text.strip())
    if match is None:
        raise UsageError(f"the latency budget {text!r} cannot be read; accepted: {ACCEPTED}")
    number, unit = float(match["number"]), match["unit"]
    if number <= 0:
        raise UsageError(f"the latency budget {text!r} must be above 0; accepted: {ACCEPTED}")
    if unit == "Minsn":
        return Budget(instructions=number * 1e6)
    return Budget(ratio=number) if unit == "x" else Budget(nanoseconds=number * _NANOSECONDS[unit])
