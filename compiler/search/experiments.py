"""What a search asks of the world, as callables, and how much of it.

Everything asked for is deterministic or kept: the same question twice has the same answer, so that an
interrupted search that asks again goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compiler.errors import UsageError
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice
from compiler.search.trial import Reading

Measure = Callable[[Sequence[Choice]], Mapping[Choice, Reading]]
Cost = Callable[[Choice], CostEstimate]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Outlook:
    """What is expected of a choice before it is measured, over the base's time.

    `departure` is the expected change, below 0 where time is saved; no kernel can save more than `most`.
    """

    departure: float
    most: float


@dataclass(frozen=True)
class Experiments:
    """The questions a search asks.

    `measure` takes the choices of one run; the base runs beside them whether it is among them or not.
    `cost` is read on the first half of the samples, `second` on others: without it nothing is repaired.
    `costs` reads those of many choices beforehand, where that is quicker than one by one.
    `size` is a program's bytes. `outlook` is what a cost model expects of a choice. `refuses` says why a
    choice cannot be built, `gate` why a measured one may not win; None where nothing is against it.
    """

    measure: Measure
    cost: Cost
    second: Cost | None = None
    size: Callable[[Choice], int] | None = None
    outlook: Callable[[Choice], Outlook] | None = None
    refuses: Callable[[Choice], str | None] = lambda _: None
    gate: Callable[[Choice], str | None] = lambda _: None
    costs: Callable[[Sequence[Choice]], None] = lambda _: None


@dataclass(frozen=True)
class MeasurementBudget:
    """How much a search may ask: None is as much as it takes.

    `measurements` counts choices measured beside the base, `device_seconds` what the device was taken
    for. `trials` bounds what is measured after the first run, `repairs` the swaps whose costs are read.
    """

    measurements: int | None = None
    device_seconds: float | None = None
    trials: int = 8
    repairs: int = 40

    def __post_init__(self) -> None:
        if self.measurements is not None and self.measurements < 1:
            raise UsageError(f"a search needs 1 measurement at least, got {self.measurements}")
        if self.device_seconds is not None and not self.device_seconds > 0:
            raise UsageError(f"a search needs more than {self.device_seconds:g} seconds of a device")

    @property
    def reserve(self) -> int:
        """The measurements kept for whole plans, where single options are many."""
        return self.trials if self.measurements is None else min(self.trials, (self.measurements + 3) // 4)

    def left(self, measured: int, seconds: float) -> int | None:
        """Return how many more measurements there may be, None for any number."""
        if self.device_seconds is not None and measured:
            each = seconds / measured
            by_time = int((self.device_seconds - seconds) / each) if each > 0 else None
            if seconds >= self.device_seconds:
                by_time = 0
        else:
            by_time = None
        by_count = None if self.measurements is None else max(0, self.measurements - measured)
        known = [n for n in (by_time, by_count) if n is not None]
        return min(known, default=None)
