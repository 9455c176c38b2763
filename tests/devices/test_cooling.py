"""The cool-down: it waits for a temperature and for a clock, within its limit, and never twice in vain."""

from __future__ import annotations

import pytest

from compiler.errors import UnstableMeasurementError
from compiler.records import Metric
from devices.benchmark import measure

COOL = {"min_rounds": 6, "max_rounds": 6, "cooldown_max_s": 60.0}


def constant(name, number, n):
    return {"wall_ns": [1_000_000] * n, "cpu_ns": [1_000_000] * n}


def run(device, candidate, profile, database, told=None, **protocol):
    chosen = profile(**COOL | protocol)
    names = [candidate("a")]
    report = None if told is None else told.append
    return measure(names, device, chosen, database, report, clock=device.clock)[0]


def heats(device):
    """Return 45 C from the third round on until 20 s were slept, 35 C otherwise."""
    hot = len(device.log) >= 8 and sum(device.slept[1:]) < 20
    return {"temperature_c": 45.0 if hot else 35.0}


def test_a_round_waits_until_the_temperature_is_below_the_limit(
    instant, candidate, profile, database
) -> None:
    device = instant(constant, says=heats)
    found = run(device, candidate, profile, database, cool_below_c=40.0)
    assert device.slept[1:] == [5.0] * 4
    assert all(r.before.temperature_c < 40 for r in found.rounds)
    assert found.incidents == ("cools down from 45 C to 40 C",)
    assert (len(found.rounds), found.stable) == (6, True)


def test_without_a_limit_nothing_waits_and_no_canary_runs(instant, candidate, profile, database) -> None:
    device = instant(constant, says=heats)
    found = run(device, candidate, profile, database, cooldown_max_s=0.0)
    assert device.slept == [0.0]
    assert [r.canary_ns for r in found.rounds] == [None] * 6
    assert len(device.log) == 2 + 6


def test_a_device_that_stays_hot_ends_it_and_goes_on_when_it_is_cool(
    instant, candidate, profile, database
) -> None:
    device = instant(constant, says=lambda d: {"temperature_c": 45.0 if len(d.log) >= 8 else 35.0})
    with pytest.raises(UnstableMeasurementError, match="instant has 45 C after 60 s of waiting, below 40 C"):
        run(device, candidate, profile, database, cool_below_c=40.0)
    assert sum(device.slept[1:]) == 60
    device.says = lambda _: {"temperature_c": 35.0}
    told = []
    found = run(device, candidate, profile, database, told, cool_below_c=40.0)
    assert (told[0].event, told[0].rounds) == ("resumed", 3)
    assert len(found.rounds) == 6
    assert found.incidents == ("cools down from 45 C to 40 C",)


def with_falling_clock(instant, seconds: float):
    """Return a device whose clock is down from the sixth request on, until so much was slept."""

    def model(name, number, n):
        slow = number >= 6 and sum(device.slept[1:]) < seconds
        taken = 1_300_000 if slow else 1_000_000
        return {"wall_ns": [taken] * n, "cpu_ns": [taken] * n}

    device = instant(model)
    return device


def test_a_canary_that_is_slow_waits_until_the_clock_is_back(instant, candidate, profile, database) -> None:
    device = with_falling_clock(instant, 15)
    found = run(device, candidate, profile, database)
    assert device.slept[1:] == [5.0] * 3
    assert [r.canary_ns for r in found.rounds] == [1_000_000] * 6
    assert (found.throttled, found.stable) == (False, True)
    assert found.incidents == ("the clock fell: an inference takes 1.30 times its best; waits",)


def test_a_canary_that_stays_slow_is_waited_for_once_and_the_rounds_are_marked(
    instant, candidate, profile, database
) -> None:
    device = with_falling_clock(instant, 1e9)
    found = run(device, candidate, profile, database)
    assert sum(device.slept[1:]) == 60
    assert [r.throttled for r in found.rounds] == [False] * 2 + [True] * 4
    assert (len(found.rounds), found.throttled, found.stable) == (6, True, False)
    assert "the clock stays low" in found.incidents[1]


def test_a_preempted_canary_does_not_wait(instant, candidate, profile, database) -> None:
    def model(name, number, n):
        return {"wall_ns": [3_000_000 if number == 6 else 1_000_000] * n, "cpu_ns": [1_000_000] * n}

    device = instant(model)
    run(device, candidate, profile, database)
    assert device.slept == [0.0]


def test_counts_of_instructions_need_no_canary(instant, candidate, profile, database) -> None:
    device = instant(lambda name, number, n: {"instructions": [42] * n})
    found = run(device, candidate, profile, database, metric=Metric.INSTRUCTIONS)
    assert len(device.log) == 2 + 6
    assert [r.canary_ns for r in found.rounds] == [None] * 6


def test_an_interrupted_run_remembers_its_best_canary(instant, candidate, profile, database) -> None:
    def stop(progress):
        if progress.rounds == 3:
            raise KeyboardInterrupt

    device = instant(constant)
    chosen = profile(**COOL)
    with pytest.raises(KeyboardInterrupt):
        measure([candidate("a")], device, chosen, database, stop, clock=device.clock)
    slow = instant(lambda name, number, n: {"wall_ns": [1_300_000] * n, "cpu_ns": [1_300_000] * n})
    (found,) = measure([candidate("a")], slow, chosen, database, clock=slow.clock)
    assert sum(slow.slept[1:]) == 60
    assert [r.throttled for r in found.rounds] == [False] * 3 + [True] * 3
