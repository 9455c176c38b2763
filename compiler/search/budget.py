"""The latency budget: an absolute time, or a multiple of the merged float model's own time.

    12ms   800us   1.5s   0.7x

A ratio is judged against the float model measured interleaved in the same run, so that drift of
the machine cancels; an absolute time against what the clock said.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from compiler.errors import UsageError

ACCEPTED = "12ms, 800us, 1.5s, or 0.7x (a multiple of the merged float model's latency)"
_TEXT = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>ns|us|µs|ms|s|x)\Z")
_NANOSECONDS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class Budget:
    """An upper bound on latency; exactly one of the fields is set."""

    nanoseconds: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.nanoseconds, self.ratio) if v is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            raise UsageError(f"a latency budget is one number above 0; accepted: {ACCEPTED}")

    def limit(self, float_ns: float) -> float:
        """Return the budget as a multiple of a float latency in nanoseconds."""
        return self.ratio if self.ratio is not None else self._nanoseconds / float_ns

    @property
    def _nanoseconds(self) -> float:
        assert self.nanoseconds is not None
        return self.nanoseconds

    def __str__(self) -> str:
        """Return the budget as `--latency-budget` takes it."""
        return f"{self.ratio:g}x" if self.ratio is not None else f"{self._nanoseconds / 1e6:g}ms"


def parse_budget(text: str) -> Budget:
    """Read a budget such as `12ms` or `0.7x`; raises UsageError showing the accepted forms."""
    match = _TEXT.match(text.strip())
    if match is None:
        raise UsageError(f"the latency budget {text!r} cannot be read; accepted: {ACCEPTED}")
    number, unit = float(match["number"]), match["unit"]
    if number <= 0:
        raise UsageError(f"the latency budget {text!r} must be above 0; accepted: {ACCEPTED}")
    return Budget(ratio=number) if unit == "x" else Budget(nanoseconds=number * _NANOSECONDS[unit])
