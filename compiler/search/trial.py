"""What was measured: a reading of one choice, a trial of it, and the outcome of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.search.budget import Budget
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice

if TYPE_CHECKING:
    from compiler.search.latency import LatencyModel


@dataclass(frozen=True)
class Reading:
    """One choice as measured: its time over the base's of the same run, and its own time in ns.

    `low` and `high` bound each at 95%; `base_ns` is the base's in that run. All are of one `percentile`
    of the samples, the median where it is p50. Where instructions are `counted`, they stand in the place
    of nanoseconds. `seconds` is how long the device was taken for it.
    """

    ratio: float
    ratio_low: float
    ratio_high: float
    median_ns: float
    low_ns: float
    high_ns: float
    base_ns: float
    counted: bool = False
    percentile: str = "p50"
    seconds: float = 0.0

    def shown(self, value: float) -> str:
        """Return a time, or a count of instructions, in words."""
        return f"{value / 1e6:.4g}M instructions" if self.counted else f"{value / 1e6:.3f} ms"

    @property
    def text(self) -> str:
        """The median, or another percentile, with its interval, in words."""
        low, high = (f"{value / 1e6:.{4 if self.counted else 3}f}" for value in (self.low_ns, self.high_ns))
        named = "" if self.percentile == "p50" else f" {self.percentile}"
        return f"{self.shown(self.median_ns)}{named} ({low} to {high})"

    def upper(self, budget: Budget) -> float:
        """Return the upper bound the budget is judged by, as a multiple of the base."""
        return self.ratio_high if budget.ratio is not None else self.high_ns / self.base_ns

    def within(self, budget: Budget) -> bool:
        """Tell whether the measured upper bound is within the budget."""
        return self.upper(budget) <= budget.limit(self.base_ns)


@dataclass(frozen=True)
class Trial:
    """A choice that was measured; `predicted` is the model's ratio before it was, None at the start.

    `bytes` is the size of its program, None where sizes do not matter. `heals` names the healers that
    its constants went through.
    """

    choice: Choice
    reading: Reading
    cost: CostEstimate | None = None
    predicted: float | None = None
    bytes: int | None = None
    heals: tuple[str, ...] = ()

    @property
    def price(self) -> tuple[float, float]:
        """What trials are ranked by: the cost, then the time."""
        return (self.cost.mean if self.cost else 0.0, self.reading.ratio)


@dataclass(frozen=True)
class Outcome:
    """The winner, everything measured in order, and the last fitted model (None where none was needed).

    `refused` says of choices that were not measured why; `unmeasured` counts the single options that the
    limit on measurements left out.
    """

    winner: Trial
    trials: tuple[Trial, ...]
    model: LatencyModel | None
    refused: tuple[str, ...] = ()
    unmeasured: int = 0
