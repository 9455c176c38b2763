"""What goes wrong on the way: nothing finished is lost, nothing bad is kept, and the message says what."""

from __future__ import annotations

import pytest

from compiler.errors import DeviceError
from devices.benchmark import measure

FIVE = {"min_rounds": 5, "max_rounds": 5}
GOOD = 1_000_000


def samples(n: int, wall: int = GOOD) -> dict[str, list[int]]:
    return {"wall_ns": [wall] * n, "cpu_ns": [wall] * n}


def failing(instant, faults: dict[int, object], name: str = "a"):
    """Return a device at whose n-th request of a runner something happens: an error, or an odd answer."""
    asked = 0

    def model(who, number, n):
        nonlocal asked
        asked += who == name
        fault = faults.get(asked) if who == name else None
        if isinstance(fault, str):
            raise DeviceError(fault)
        return samples(n) if fault is None else fault

    return instant(model)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("the runner 'a' was killed by SIGSEGV (11)", "SIGSEGV"),
        ("the runner 'a' did not answer within 125 s", "did not answer"),
        ({"wall_ns": "quick"}, "not a list of whole numbers: quick"),
        ({"wall_ns": [GOOD]}, "gave 1 samples of wall_ns where"),
        ({}, "gave 0 samples"),
    ],
)
def test_a_runner_that_fails_once_is_started_again_for_the_same_round(
    instant, candidate, profile, database, fault, words
) -> None:
    device, told = failing(instant, {4: fault}), []
    (found,) = measure([candidate("a")], device, profile(**FIVE), database, told.append, clock=device.clock)
    assert [r.index for r in found.rounds] == [0, 1, 2, 3, 4]
    assert {s for r in found.rounds for s in r.samples} == {GOOD}
    assert (found.stable, device.open, device.slept) == (True, set(), [0.0, 1.0])
    assert len(device.log) == (2 + 2) + (2 + 4)  # warmed up twice, and the second round made twice
    assert len(found.incidents) == 1
    assert words in found.incidents[0]
    assert [words in e.detail for e in told if e.event == "fault"] == [True]


def test_retries_are_bounded_and_the_rounds_are_kept(instant, candidate, profile, database) -> None:
    faults = dict.fromkeys(range(5, 100), "it fell")
    device = failing(instant, faults)
    with pytest.raises(DeviceError, match=r"(?s)'a'.*it fell.*fault 4 of this run; its 2 rounds are kept"):
        measure([candidate("a")], device, profile(**FIVE), database, clock=device.clock)
    assert (device.open, device.slept) == (set(), [0.0, 1.0, 5.0, 15.0])
    again = instant(lambda name, number, n: samples(n))
    (found,) = measure([candidate("a")], again, profile(**FIVE), database, clock=again.clock)
    assert len(found.rounds) == 5
    assert len(found.incidents) == 4  # those of the first run


def test_no_retries_means_none(instant, candidate, profile, database) -> None:
    device = failing(instant, {4: "it fell"})
    with pytest.raises(DeviceError, match="it fell"):
        measure([candidate("a")], device, profile(**FIVE), database, clock=device.clock, retries=0)
    assert device.slept == [0.0]


def test_a_program_that_does_not_start_is_not_tried_again(instant, candidate, profile, database) -> None:
    device = failing(instant, {1: "cannot load the program"})
    with pytest.raises(DeviceError, match="cannot load"):
        measure([candidate("a"), candidate("b")], device, profile(**FIVE), database, clock=device.clock)
    assert device.log == ["a"]


def test_one_that_keeps_falling_is_set_aside_and_the_others_go_on(
    instant, candidate, profile, database
) -> None:
    device = failing(instant, dict.fromkeys(range(5, 100), "it fell"), "b")
    names = [candidate(n) for n in "abc"]
    with pytest.raises(DeviceError, match=r"(?s)'b'.*it fell.*The 2 other candidates are measured, and kept"):
        measure(names, device, profile(**FIVE), database, clock=device.clock)
    done = database.measurements()
    assert sorted((m.artifact_digest, len(m.rounds), m.stable) for m in done) == [
        ("artifact-a", 5, True),
        ("artifact-c", 5, True),
    ]
    assert device.open == set()


@pytest.mark.parametrize("lost", [2, 5])
def test_a_device_that_is_away_for_a_moment_is_waited_for_and_no_longer(
    instant, candidate, profile, database, lost: int
) -> None:
    away = iter([True] * lost)

    def says(device):
        if len(device.log) >= 7 and next(away, False):
            raise DeviceError("the device 'instant' is gone")
        return {}

    device = instant(lambda name, number, n: samples(n), says=says)
    names = [candidate("a"), candidate("b")]
    if lost == 2:
        results = measure(names, device, profile(**FIVE), database, clock=device.clock)
        assert [len(m.rounds) for m in results] == [5, 5]
        assert sum("is gone" in text for m in results for text in m.incidents) == 2
        return
    with pytest.raises(DeviceError, match=r"(?s)is gone.*rounds are kept"):
        measure(names, device, profile(**FIVE), database, clock=device.clock)
    assert device.slept == [0.0, 1.0, 5.0, 15.0]  # the other one is not tried on a device that is gone
    device.says = lambda _: {}
    results = measure(names, device, profile(**FIVE), database, clock=device.clock)
    assert [[r.index for r in m.rounds] for m in results] == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("jump_ns", [-(10**18), 10**18])
def test_a_device_whose_clock_is_set_is_measured_all_the_same(
    instant, candidate, profile, database, jump_ns: int
) -> None:
    def says(device):
        return {"time_ns": device.time_ns + (jump_ns if len(device.log) >= 4 else 0)}

    device = instant(lambda name, number, n: samples(n), says=says)
    chosen = profile(min_rounds=8, max_rounds=60, max_seconds=30.0)
    (found,) = measure([candidate("a")], device, chosen, database, clock=device.clock)
    assert (len(found.rounds), found.stable) == (8, True)
    assert {r.duration_ns for r in found.rounds} == {100_000_000}


def test_rounds_under_another_governor_take_no_part(instant, candidate, profile, database) -> None:
    def says(device):
        return {"governor": "powersave" if 5 <= len(device.log) < 8 else "schedutil"}

    def model(name, number, n):
        return samples(n, 1_080_000 if 5 <= number < 8 else GOOD)

    device = instant(model, says=says)
    (found,) = measure([candidate("a")], device, profile(min_rounds=8), database, clock=device.clock)
    assert [r.index for r in found.rounds if r.noisy] == [2, 3, 4, 5]
    assert (found.statistics.median, found.statistics.p99, found.stable) == (GOOD, GOOD, True)


def test_rounds_at_which_android_says_that_it_throttles_take_no_part(
    instant, candidate, profile, database
) -> None:
    device = instant(
        lambda name, number, n: samples(n),
        says=lambda d: {"thermal_status": "2" if len(d.log) == 6 else "1"},
    )
    (found,) = measure([candidate("a")], device, profile(min_rounds=8), database, clock=device.clock)
    assert [r.index for r in found.rounds if r.throttled] == [3, 4]
    assert (found.throttled, found.stable) == (True, True)
