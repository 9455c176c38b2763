"""Ask a runner for samples, and warm it up until they are steady."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compiler.device import BenchmarkProtocol, Session
from compiler.errors import DeviceError
from compiler.records import Metric
from devices.clock import HOST, Clock

FIELDS = {Metric.WALL: "wall_ns", Metric.CPU: "cpu_ns", Metric.INSTRUCTIONS: "instructions"}
LEAST_SAMPLES = 3
MOST_SAMPLES = 4096  # of an operation of microseconds, more per round tell nothing new
WARM_WINDOWS = 4  # windows in `warmup_s`
MOST_WINDOWS = 64
STEADY = 0.03

Samples = Mapping[Metric, tuple[int, ...]]


@dataclass(frozen=True)
class Warm:
    """What warming up showed: the first inference and one warm inference, in wall nanoseconds."""

    first_ns: int
    inference_ns: float
    steady: bool


def take(session: Session, iterations: int, metric: Metric, expected_s: float = 0.0) -> Samples:
    """Return the samples of that many inferences, in every metric the runner reads.

    Raises DeviceError when the runner dies, takes far longer than expected, or its answer does
    not hold `iterations` numbers of the metric that was asked for.
    """
    answer = session.request({"do": "time", "iterations": iterations}, timeout_s=120 + 20 * expected_s)
    samples = {kind: _numbers(answer[name], name) for kind, name in FIELDS.items() if name in answer}
    for kind in {metric, *samples}:
        if len(samples.get(kind, ())) != iterations:
            raise DeviceError(
                f"the runner gave {len(samples.get(kind, ()))} samples of {FIELDS[kind]} "
                f"where {iterations} were asked for"
            )
    return samples


def warm_up(session: Session, protocol: BenchmarkProtocol, clock: Clock = HOST) -> Warm:
    """Run windows of inferences until two neighbours' medians agree within `STEADY`.

    At least `warmup_s` seconds are spent, and no more than `warmup_max_s` by whole windows.
    """
    first = take(session, 1, protocol.metric)
    inference_ns, last, steady = _wall(first), 0.0, False
    start = clock.now()
    for _ in range(MOST_WINDOWS):
        window_s = protocol.warmup_s / WARM_WINDOWS
        samples = take(session, count(window_s, inference_ns), protocol.metric, window_s)
        inference_ns, median = _wall(samples), float(np.median(samples[protocol.metric]))
        steady = abs(median - last) <= STEADY * median
        last = median
        spent = clock.now() - start
        if spent >= protocol.warmup_max_s or (steady and spent >= protocol.warmup_s):
            break
    return Warm(int(_wall(first)), inference_ns, steady)


def canary(session: Session, metric: Metric) -> int | None:
    """Return the median of a few inferences' processor time, of their wall time where that is not read.

    A preempted process waits without using processor time: what grows is a clock that fell. None for
    a metric that no clock moves.
    """
    if metric is Metric.INSTRUCTIONS:
        return None
    samples = take(session, LEAST_SAMPLES, metric)
    read = samples.get(Metric.CPU) or samples.get(Metric.WALL)
    return int(np.median(read)) if read else None


def peak_memory(session: Session) -> int | None:
    """Return the most bytes of memory the runner has held, None where it does not tell.

    A runner that knows no such request answers with an error and stays up.
    """
    try:
        found = session.request({"do": "memory"}).get("peak_rss_bytes")
    except DeviceError:
        return None
    return found if type(found) is int and found > 0 else None


def count(seconds: float, inference_ns: float) -> int:
    """Return how many inferences fill so many seconds, within the least and the most of a round."""
    fitting = seconds * 1e9 / inference_ns if inference_ns > 0 else 0.0
    return int(min(max(fitting, LEAST_SAMPLES), MOST_SAMPLES))


def _wall(samples: Samples) -> float:
    return float(np.median(samples[Metric.WALL])) if samples.get(Metric.WALL) else 0.0


def _numbers(values: object, name: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise DeviceError(f"the runner's {name} is not a list of whole numbers: {str(values)[:200]}")
    return tuple(values)
