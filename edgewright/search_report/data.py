"""What a search report shows, as plain values: made by `collect`, drawn by `page`.

Latencies are in `unit`, the one the budget is given in: multiples of the merged float model, milliseconds,
or millions of instructions. Costs are in `cost_unit`. Ideal latencies are the roofline's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value between bounds that hold it at 95%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Variant:
    """One measured variant.

    `predicted` is its latency as the model had it before it was measured, `fitted` as the last model has
    it; `ideal` what its roofline allows. None where there is no such figure. `bytes` is its program's size.
    """

    name: str
    latency: Interval
    cost: Interval | None
    within: bool
    chosen: bool
    front: bool
    bytes: int
    predicted: float | None = None
    fitted: float | None = None
    ideal: float | None = None

    @property
    def efficiency(self) -> float | None:
        """The share of the ideal's speed that the device reached."""
        return None if self.ideal is None else self.ideal / self.latency.value


@dataclass(frozen=True)
class PlanRow:
    """One site of the plan; `option` is None where it is kept as it is.

    `change` is what the decision does to the latency within this plan, by the fitted model; `cost` what
    it costs alone.
    """

    module: str
    site: str
    method: str
    option: str | None
    change: float | None = None
    cost: Interval | None = None


@dataclass(frozen=True)
class Departure:
    """One decision taken alone: what it costs and what it takes, both as measured."""

    site: str
    method: str
    option: str
    cost: Interval
    latency: Interval
    taken: bool

    @property
    def label(self) -> str:
        """The decision in words."""
        return f"{self.site} → {self.option}"


@dataclass(frozen=True)
class KernelRow:
    """One kernel of the chosen variant; times in `kernel_unit`, `measured` None where it was not."""

    name: str
    op: str
    module: str
    precision: str
    operations: float
    bytes: float
    intensity: float
    balance: float
    bound: str
    attainable: float
    measured: float | None = None


@dataclass(frozen=True)
class ReportData:
    """A search as its report tells it.

    `limit` is the budget in `unit`; `upper` the winner's measured upper bound; `unseen` the winner's cost
    on `samples` the search never saw, None where the float model won. `kernel_unit` is that of kernel times;
    `machine` says in words where the roofline comes from.
    """

    model: str
    device: str
    target: str
    budget: str
    limit: float
    upper: float
    unit: str
    cost_unit: str
    variants: tuple[Variant, ...]
    plan: tuple[PlanRow, ...]
    departures: tuple[Departure, ...]
    kernels: tuple[KernelRow, ...]
    kernel_unit: str
    machine: str
    unseen: Interval | None = None
    samples: int = 0
    advice: tuple[str, ...] = ()

    @property
    def winner(self) -> Variant:
        """The chosen variant."""
        return next(v for v in self.variants if v.chosen)

    @property
    def priced(self) -> tuple[Variant, ...]:
        """The variants whose cost is known."""
        return tuple(v for v in self.variants if v.cost is not None)
