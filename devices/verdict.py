"""Judge rounds: which were throttled, which were disturbed, and what may be concluded.

Throttled: the clock fell. Where the device tells its clock, a round counts as throttled when the
clock after it stood under `CLOCK_DROP` of the best clock seen and the round was slower by more
than `SLOWER_WITH_CLOCK`. Where it does not, a round counts when the inference just before it, its
canary, took longer than the best one by `SLOWER`; and the readings are canaries as well: a round
whose median exceeds the run's best rolling baseline by `SLOWER`, with a neighbouring round that does
too (a lower clock lasts; a hiccup does not), while its processor time rose as well. A preempted
process waits without using processor time, so this tells a slow clock from a busy machine. Whatever
the clock says, a round is throttled when Android's thermal service was at `THROTTLING` or above.

Noisy: the process did not get the processor. The median of wall over processor time exceeds what
the same runner needs when left alone by `PREEMPTED`. For one thread that is 1; for more it is the
run's best rolling value, since their processor times add up. A reading of processor time or of
instructions does not suffer from waiting, so for those metrics no round is that. Noisy, too, is a
round under another governor or power mode than most of the run: it is of another population.

Judged rounds are kept; the marked ones are left out of the statistics. Where too few clean
rounds remain, all are used and the measurement is not stable: picking the fast minority would be
telling the story we want.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compiler.device import BenchmarkProtocol
from compiler.records import DeviceState, Metric, Round, Statistics
from devices.statistics import RESAMPLES, summarise

WINDOW = 3
SLOWER = 1.10
SLOWER_WITH_CLOCK = 1.03
CLOCK_DROP = 0.90
CPU_ROSE = 1.05
PREEMPTED = 1.15
LEAST_CLEAN = 3
THROTTLING = 2  # moderate, of Android's 0 (none) to 6 (shutdown)


@dataclass(frozen=True)
class Conclusion:
    """Rounds with their marks, the statistics of the clean ones, and whether they can be relied on."""

    rounds: tuple[Round, ...]
    statistics: Statistics
    clean: int
    stable: bool


def conclude(
    rounds: Sequence[Round],
    metric: Metric,
    threads: int,
    protocol: BenchmarkProtocol,
    resamples: int = RESAMPLES,
    *,
    tails: bool = True,
) -> Conclusion:
    """Judge the rounds of one measurement, with or without bounds of the tails; ValueError without any."""
    judged = judge(rounds, metric, threads)
    clean = [r for r in judged if not (r.throttled or r.noisy)]
    enough = len(clean) >= max(LEAST_CLEAN, (len(judged) + 1) // 2)
    statistics = summarise([r.samples for r in (clean if enough else judged)], resamples, tails=tails)
    stable = enough and statistics.relative_width <= protocol.unstable_width
    return Conclusion(judged, statistics, len(clean), stable)


def judge(rounds: Sequence[Round], metric: Metric, threads: int) -> tuple[Round, ...]:
    """Return the rounds with `throttled` and `noisy` set from all of them together."""
    if not rounds:
        return ()
    throttled = [t or _limited(r) for t, r in zip(_throttled(rounds, metric), rounds, strict=True)]
    noisy = [n or c for n, c in zip(_noisy(rounds, metric, threads), _changed(rounds), strict=True)]
    return tuple(
        replace(r, throttled=slow, noisy=disturbed)
        for r, slow, disturbed in zip(rounds, throttled, noisy, strict=True)
    )


def readings(round_: Round, metric: Metric, wanted: Metric) -> tuple[int, ...]:
    """Return a round's samples of one metric, where `samples` are of `metric`; () when not read."""
    return round_.samples if wanted is metric else round_.also.get(wanted, ())


def _throttled(rounds: Sequence[Round], metric: Metric) -> list[bool]:
    slower = _relative([_median(r.samples) for r in rounds])
    clocks = [_clock(r) for r in rounds]
    if all(clock is not None for clock in clocks):
        best = max(clock for clock in clocks if clock is not None)
        dropped = [clock is not None and clock < CLOCK_DROP * best for clock in clocks]
        return [d and s > SLOWER_WITH_CLOCK for d, s in zip(dropped, slower, strict=True)]
    cpu = _relative([_median(readings(r, metric, Metric.CPU)) for r in rounds])
    slow = [s > SLOWER and c > CPU_ROSE for s, c in zip(slower, cpu, strict=True)]
    lasting = [any(slow[max(0, i - 1) : i]) or any(slow[i + 1 : i + 2]) for i in range(len(slow))]
    return [(s and n) or c for s, n, c in zip(slow, lasting, _canaries(rounds), strict=True)]


def _canaries(rounds: Sequence[Round]) -> list[bool]:
    """Tell for each round whether its canary found a slower clock than the best one."""
    seen = [r.canary_ns for r in rounds if r.canary_ns]
    return [bool(r.canary_ns) and (r.canary_ns or 0) > SLOWER * min(seen) for r in rounds]


def _limited(round_: Round) -> bool:
    """Tell whether the device said of itself that it was throttling."""
    said = (round_.before.thermal_status, round_.after.thermal_status)
    return any(text is not None and text.isdecimal() and int(text) >= THROTTLING for text in said)


def _changed(rounds: Sequence[Round]) -> list[bool]:
    """Tell for each round whether it began or ended in another mode than most of the run."""
    modes = [(_mode(r.before), _mode(r.after)) for r in rounds]
    usual = Counter(mode for pair in modes for mode in pair).most_common(1)[0][0]
    return [pair != (usual, usual) for pair in modes]


def _mode(state: DeviceState) -> tuple[str | None, bool | None]:
    return state.governor, state.power_save


def _noisy(rounds: Sequence[Round], metric: Metric, threads: int) -> list[bool]:
    if metric is not Metric.WALL:
        return [False] * len(rounds)
    waits = [_wait(r, metric) for r in rounds]
    alone = 1.0 if threads == 1 else _baseline(waits)
    return [wait > PREEMPTED * alone for wait in waits]


def _wait(round_: Round, metric: Metric) -> float:
    """Return median wall over median processor time; 0 where either was not read."""
    wall = _median(readings(round_, metric, Metric.WALL))
    cpu = _median(readings(round_, metric, Metric.CPU))
    return wall / cpu if cpu else 0.0


def _relative(medians: Sequence[float]) -> list[float]:
    baseline = _baseline(medians)
    return [m / baseline if baseline else 0.0 for m in medians]


def _baseline(values: Sequence[float]) -> float:
    """Return the least median of any `WINDOW` neighbours (of all, when there are fewer)."""
    width = min(WINDOW, len(values))
    return min(_median(values[i : i + width]) for i in range(len(values) - width + 1))


def _clock(round_: Round) -> float | None:
    """Return the fastest clock after a round among the CPUs it ran on, None where none is told."""
    clocks = _bound_to(round_.after, round_.affinity)
    return max(clocks) if clocks else None


def _bound_to(state: DeviceState, cpus: Sequence[int]) -> list[float]:
    clocks = state.frequency_mhz
    return [clocks[i] for i in cpus if i < len(clocks)] or list(clocks)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else 0.0
