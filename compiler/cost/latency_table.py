"""Measured latencies of kernels on one device: the price that takes the place of the prior.

A table is the answer of a query over the measurement database (`devices.latency`), never a file
that somebody edited. It knows the kernels it was measured for and no others: what it does not hold
it does not guess, and an unknown kernel has no price, which is not the price 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from compiler.cost.kernel import Kernel
from compiler.records import Metric


@dataclass(frozen=True)
class Entry:
    """One latency in the unit of its table's metric; `low` and `high` bound the median (95%)."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyTable:
    """Kernel text -> latency, all of one device, target, thread count and kind of metric.

    `entries` are what a kernel adds to a program that runs anyway: the fixed cost of a call,
    `fixed`, is taken off (None where it was not measured, 0 where the metric does not see it).
    `programs` holds the text IR of entries that are whole programs, where that was kept.
    Units are nanoseconds, executed instructions where the metric is `INSTRUCTIONS`. Raises ValueError
    for an entry that is not positive or lies outside its interval.
    """

    device: str
    target: str
    threads: int
    metric: Metric
    entries: Mapping[str, Entry]
    fixed: Entry | None = None
    programs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no latency: a price of 0 would win every comparison."""
        for text, entry in self.entries.items():
            if not 0 < entry.low <= entry.median <= entry.high:
                raise ValueError(f"{entry} is not a latency: 0 < low <= median <= high; kernel {text}")

    def entry(self, kernel: Kernel) -> Entry | None:
        """Return the latency of a kernel with its interval, None where it was not measured."""
        return self.entries.get(kernel.text)

    def cost(self, kernel: Kernel) -> float | None:
        """Return the median latency of a kernel, None where it was not measured; never 0."""
        entry = self.entry(kernel)
        return None if entry is None else entry.median

    def covers(self, kernels: Iterable[Kernel]) -> bool:
        """Tell whether every kernel was measured, so that their costs may be added and compared."""
        return all(kernel.text in self.entries for kernel in kernels)

    @property
    def label(self) -> str:
        """What a decision by this table says it rests on."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        kernels = f"{len(self.entries)} kernel{'s' * (len(self.entries) != 1)}"
        kind = "" if self.metric is Metric.WALL else f", {self.metric.value}"
        return f"latency table of {self.device}, {self.target}, {threads}, {kernels}{kind}"
