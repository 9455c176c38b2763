"""Memory for values that live for a while: those alive together never overlap.

Placed greedily, the largest first, each at the lowest offset that is free for its whole life
(Pisarchyk and Lee, Efficient memory management for deep neural net inference, 2020: greedy by size).
A life includes the call that makes a value and the last call that reads it, so that no kernel writes
where it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from targets.tvm.static import ALIGNMENT


@dataclass(frozen=True)
class Lifetime:
    """A value's bytes, and the first and the last call of its life."""

    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Tell whether both are alive at some call."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """An offset for each value, and the bytes that hold them all."""

    offsets: tuple[int, ...]
    size: int


def aligned(size: int) -> int:
    """Return the size rounded up to the alignment of buffers."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan(values: Sequence[Lifetime]) -> Plan:
    """Return where each value lies."""
    offsets: dict[int, int] = {}
    for index in sorted(range(len(values)), key=lambda i: (-values[i].size, values[i].first, i)):
        taken = sorted(
            (offset, offset + aligned(values[other].size))
            for other, offset in offsets.items()
            if values[other].meets(values[index])
        )
        offsets[index] = _lowest(taken, aligned(values[index].size))
    end = max((offset + aligned(values[i].size) for i, offset in offsets.items()), default=0)
    return Plan(tuple(offsets[i] for i in range(len(values))), end)


def in_a_row(sizes: Sequence[int]) -> Plan:
    """Return offsets for values that are all alive for good."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + aligned(size))
    return Plan(tuple(ends[:-1]), ends[-1])


def _lowest(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Return the lowest offset with so many free bytes between sorted ranges, which may overlap."""
    offset = 0
    for start, end in taken:
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset
