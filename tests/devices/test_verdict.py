"""Throttling and disturbance, told apart on made-up rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.device import BenchmarkProtocol
from compiler.records import DeviceState, Metric, Round
from devices.verdict import conclude, judge

WALL, CPU = Metric.WALL, Metric.CPU


def rounds_of(wall, cpu=None, clocks=None, metric=WALL, affinity=()) -> list[Round]:
    made = []
    for i, w in enumerate(wall):
        c = w if cpu is None else cpu[i]
        state = DeviceState(i, frequency_mhz=() if clocks is None else clocks[i])
        samples, also = ((w,) * 5, {CPU: (c,) * 5}) if metric is WALL else ((c,) * 5, {WALL: (w,) * 5})
        made.append(Round(i, samples, state, state, affinity, also=also))
    return made


def marks(rounds: list[Round], metric=WALL, threads: int = 1) -> tuple[list[int], list[int]]:
    judged = judge(rounds, metric, threads)
    assert [(r.index, r.samples) for r in judged] == [(r.index, r.samples) for r in rounds]
    return [r.index for r in judged if r.throttled], [r.index for r in judged if r.noisy]


STEADY = [100, 101, 99, 100, 102, 100]


@pytest.mark.parametrize(
    ("wall", "cpu", "throttled", "noisy"),
    [
        (STEADY, None, [], []),
        ([100, 100, 100, 120, 121, 122], None, [3, 4, 5], []),  # the clock fell and stayed down
        ([100, 100, 100, 109, 109, 109], None, [], []),  # within what is tolerated
        ([130, 130, 100, 100, 100, 100], None, [0, 1], []),  # ... also when it began that way
        ([100, 100, 100, 130, 100, 100], None, [], []),  # one hiccup does not last
        ([100, 100, 100, 150, 150, 100], [100] * 6, [], [3, 4]),  # waiting, not slower
        ([100, 100, 100, 180, 180, 100], [100, 100, 100, 120, 120, 100], [3, 4], [3, 4]),
        ([150] * 6, [100] * 6, [], [0, 1, 2, 3, 4, 5]),  # disturbed throughout
    ],
)
def test_readings_alone_tell_a_slow_clock_from_a_busy_machine(wall, cpu, throttled, noisy) -> None:
    assert marks(rounds_of(wall, cpu)) == (throttled, noisy)


def test_a_canary_that_was_slow_marks_its_round_where_no_clock_is_told() -> None:
    canaries = [100, 112, 105, 109, None, 130]
    plain = [replace(r, canary_ns=c) for r, c in zip(rounds_of([100] * 6), canaries, strict=True)]
    assert marks(plain) == ([1, 5], [])
    told = [(2000.0,)] * 6
    clocked = [
        replace(r, canary_ns=c) for r, c in zip(rounds_of([100] * 6, clocks=told), canaries, strict=True)
    ]
    assert marks(clocked) == ([], [])


def test_a_clock_that_can_be_read_decides() -> None:
    slow = [100, 100, 108, 108, 130, 100]
    clocks = [(2000.0, 900.0)] * 2 + [(1700.0, 900.0)] + [(2000.0, 900.0)] * 2 + [(1500.0, 900.0)]
    # Round 4 is slower at full clock; round 5 was read at a low clock and lost nothing.
    assert marks(rounds_of(slow, clocks=clocks)) == ([2], [])


def test_only_the_clocks_of_the_cpus_it_ran_on_count() -> None:
    slow, clocks = [100, 100, 120], [(2000.0, 900.0), (2000.0, 900.0), (2000.0, 500.0)]
    assert marks(rounds_of(slow, clocks=clocks, affinity=(1,)))[0] == [2]
    assert marks(rounds_of(slow, clocks=clocks, affinity=(0,)))[0] == []


def test_processor_time_does_not_suffer_from_waiting() -> None:
    assert marks(rounds_of([300] * 4, [100] * 4, metric=CPU), CPU) == ([], [])


def test_more_threads_are_compared_with_themselves() -> None:
    # Two threads: processor time is twice the wall time when nobody disturbs.
    assert marks(rounds_of([100] * 5 + [140], [200] * 6), threads=2)[1] == [5]


def test_marked_rounds_are_left_out_unless_too_few_remain() -> None:
    protocol = BenchmarkProtocol()
    few = conclude(rounds_of([100] * 6 + [130] * 4), WALL, 1, protocol)
    assert (few.stable, few.clean, few.statistics.median, few.statistics.count) == (True, 6, 100, 30)
    most = conclude(rounds_of([100] * 4 + [130] * 6), WALL, 1, protocol)
    assert (most.stable, most.clean, most.statistics.median, most.statistics.count) == (False, 4, 130, 50)
    assert len(most.rounds) == 10
