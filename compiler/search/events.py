"""What happens in a search, as values that whoever watches it may show.

Latencies are multiples of the merged float model's; `left` is the number of measurements the search may
still make, None where it has no such bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """A search begins: where decisions are to be taken, and how many measurements it may make."""

    model: str
    budget: str
    sites: int
    left: int | None = None


@dataclass(frozen=True)
class Measured:
    """A variant was measured: its ratio with 95% bounds, whether it meets the budget, its cost if known."""

    variant: str
    ratio: float
    low: float
    high: float
    within: bool
    cost: float | None = None
    predicted: float | None = None
    left: int | None = None


@dataclass(frozen=True)
class Finished:
    """The search has its winner; `high` is the upper bound that meets the budget."""

    variant: str
    high: float
    cost: float


Event = Started | Measured | Finished
Watch = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """Show an event to nobody."""
