"""How much a calibration may measure, and in which order: what is worth most to the open choices first.

Without a limit the order does not matter, and all is measured in sorted runs. With one, a batch of kernels
is chosen, measured, and learnt from before the next is chosen. The choice depends on nothing but the
table, so that an interrupted calibration chooses the same batch again and finds its finished rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.cost.choices import Choice, beliefs, next_kernels
from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import LatencyTable
from compiler.cost.program import WholeProgram
from compiler.cost.reading import fit_table
from devices.latency import RUN_KERNELS


@dataclass(frozen=True)
class Budget:
    """The most kernels (whole programs are not counted) and seconds of one calibration; None for no limit."""

    max_kernels: int | None = None
    max_seconds: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_kernels is not None or self.max_seconds is not None


@dataclass
class Spending:
    """What is left of a budget from now on. A batch that has begun is finished."""

    budget: Budget
    choices: Callable[[LatencyTable], Sequence[Choice]]
    clock: Callable[[], float] = time.monotonic
    kernels: int = 0
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.begun = self.clock()

    def batch(self, missing: Mapping[str, Kernel], table: LatencyTable) -> dict[str, Kernel]:
        """Return the kernels to measure now; none where the budget is spent."""
        if not self.budget.limited:
            return dict(missing)
        if self.budget.max_seconds is not None and self.clock() - self.begun >= self.budget.max_seconds:
            return {}
        programs: dict[str, Kernel] = {text: k for text, k in missing.items() if isinstance(k, WholeProgram)}
        if programs:
            return programs
        left = RUN_KERNELS
        if self.budget.max_kernels is not None:
            left = min(left, self.budget.max_kernels - self.kernels)
        belief = beliefs(table, fit_table(table))
        chosen = next_kernels(sorted(missing.values(), key=str), self.choices(table), belief, max(0, left))
        self.kernels += len(chosen)
        return {kernel.text: kernel for kernel in chosen}
