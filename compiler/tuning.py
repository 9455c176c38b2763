"""The port of a target whose code can be tuned: kernels, schedules tried on them, and the best of these.

A schedule is a text that only its target reads. What a trial took is compared with the kernel's default
schedule in the same run, so that a device that drifts between runs does not choose for us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from compiler.records import RunSpec

if TYPE_CHECKING:
    from compiler.device import DeviceProfile
    from compiler.ir.graph import Graph
    from compiler.target import Target

Measure = Callable[[Sequence[RunSpec]], Sequence[float | None]]
"""Programs of one kernel -> what each takes, in one metric, None for one that does not run. The first is
the default schedule: where that does not run, the device is lost and DeviceError is raised."""


@dataclass(frozen=True)
class TunableKernel:
    """A kernel by the digest of what it computes; how often the program calls it; operations of a call."""

    key: str
    name: str
    calls: int
    operations: int

    @property
    def weight(self) -> int:
        """The operations that the program spends in the kernel."""
        return self.calls * self.operations


@dataclass(frozen=True)
class Trial:
    """A schedule and what it took beside the default schedule; `latency` is None for one that failed."""

    schedule: str
    latency: float | None
    baseline: float
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """The trial's latency over that of the default schedule."""
        return None if self.latency is None else self.latency / max(self.baseline, 1e-9)


class Tuner(Protocol):
    """The kernels of one program, ready to be tuned; `refused` says which cannot be, and why."""

    @property
    def kernels(self) -> tuple[TunableKernel, ...]:
        """The kernels that can be tuned, each once."""
        ...

    @property
    def refused(self) -> Mapping[str, str]:
        """The names of the other kernels with the reason."""
        ...

    def tune(
        self, kernel: TunableKernel, trials: int, seed: int, known: Sequence[Trial], measure: Measure
    ) -> Iterator[tuple[Trial, ...]]:
        """Try `trials` schedules and yield those measured, by batches; what is `known` is not."""
        ...


@runtime_checkable
class Tunable(Protocol):
    """What a target with schedules has beside the port of targets."""

    def tuner(self, graph: Graph, profile: DeviceProfile) -> Tuner:
        """Return the kernels of a graph as the target would lower it for a profile."""
        ...

    def processor(self, profile: DeviceProfile) -> Mapping[str, str]:
        """Return what schedules for a profile are made for: those for another are no use."""
        ...

    def scheduled(self, schedules: Mapping[str, str]) -> Target:
        """Return the target that lowers kernels of these keys by these schedules."""
        ...


def best(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial that is fastest, None where none is faster than the default schedule."""
    faster = [(t.ratio, i, t) for i, t in enumerate(trials) if t.ratio is not None and t.ratio < 1]
    return min(faster, key=lambda found: found[:2])[2] if faster else None


def shares(weights: Sequence[int], trials: int) -> list[int]:
    """Divide trials in proportion to weights, by the largest remainders; they add up to `trials`."""
    total = sum(weights)
    if not total:
        return [0 for _ in weights]
    parts = [divmod(weight * trials, total) for weight in weights]
    order = sorted(range(len(parts)), key=lambda i: (-parts[i][1], i))
    extra = set(order[: trials - sum(whole for whole, _ in parts)])
    return [whole + (i in extra) for i, (whole, _) in enumerate(parts)]
