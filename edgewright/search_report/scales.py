"""From values to places: a linear axis, and a logarithmic one with a strip of its own for zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

STRIP = 26.0  # px that a logarithmic axis keeps for what is 0


class Scale(Protocol):
    """Where values lie, in px, and which of them are named."""

    def at(self, value: float) -> float:
        """Return the place of a value."""
        ...

    def ticks(self, count: int) -> tuple[float, ...]:
        """Return about `count` round values within the axis, ascending."""
        ...


@dataclass(frozen=True)
class Linear:
    """An even axis from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> tuple[float, ...]:
        """Return about `count` round values within the axis."""
        return _round_values(self.low, self.high, count)


@dataclass(frozen=True)
class Log:
    """A logarithmic axis; what is 0 lies at `zero`, outside of it, where the axis has a place for that."""

    low: float
    high: float
    start: float
    end: float
    zero: float | None = None

    def at(self, value: float) -> float:
        """Return the place of a value; one below the axis lies at its start."""
        if value <= 0 and self.zero is not None:
            return self.zero
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> tuple[float, ...]:
        """Return about `count` round values within the axis, 0 first where it has a place."""
        first = () if self.zero is None else (0.0,)
        decades = math.log10(self.high / self.low)
        if decades < 0.9:
            return first + _round_values(self.low, self.high, count)
        steps = (1, 2, 5) if decades * 3 <= count else (1,)
        step = max(1, math.ceil(decades / count))
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [m * 10.0**p for p in powers if p % step == 0 for m in steps]
        return first + tuple(v for v in values if self.low <= v <= self.high)


def linear(values: Iterable[float], start: float, end: float, room: float = 0.06) -> Linear:
    """Return an even axis that holds values with some room on both sides."""
    low, high = _bounds(values)
    pad = room * (high - low) or 0.05 * abs(high) or 1.0
    return Linear(low - pad, high + pad, start, end)


def log(values: Iterable[float], start: float, end: float, zero: bool = False, room: float = 0.08) -> Log:
    """Return a logarithmic axis that holds the positive ones of some values; `zero` keeps a strip."""
    low, high = _bounds(v for v in values if v > 0)
    factor = max((high / low) ** room, 1.05)
    strip = math.copysign(STRIP, end - start) if zero else 0.0
    return Log(low / factor, high * factor, start + strip, end, start + strip / 3 if zero else None)


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    found = [v for v in values if math.isfinite(v)] or [1.0]
    return min(found), max(found)


def _round_values(low: float, high: float, count: int) -> tuple[float, ...]:
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return tuple(round((first + i) * step, 12) for i in range(int((high - first * step) / step) + 1))
