"""The protocol: order, stopping, warm-up, resumption, reuse and refusals."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from compiler.errors import DeviceError
from compiler.records import Metric
from devices.benchmark import measure
from devices.sampling import MOST_SAMPLES, count, warm_up


def constant(wall: int = 1_000_000, cpu: int | None = None):
    return lambda name, number, n: {"wall_ns": [wall] * n, "cpu_ns": [wall if cpu is None else cpu] * n}


def noise(spread: float, seed: int = 0):
    draw = random.Random(seed)

    def model(name, number, n):
        # One draw a round: the correlation that rounds as clusters are for.
        wall = [int(1_000_000 * (1 + draw.uniform(-spread, spread)))] * n
        return {"wall_ns": wall, "cpu_ns": wall}

    return model


def test_rounds_are_interleaved_in_rotating_order(instant, candidate, profile, database) -> None:
    device = instant(constant())
    events = []
    chosen = profile(min_rounds=4, max_rounds=4)
    measure([candidate(n) for n in "abc"], device, chosen, database, events.append)
    assert "".join(e.label for e in events if e.event == "round") == "abcbcacababc"
    assert "".join(device.log) == "aabbcc" + "abcbcacababc"  # two requests each to warm up
    assert device.open == set()


def test_a_steady_candidate_stops_at_min_rounds(instant, candidate, profile, database) -> None:
    (result,) = measure([candidate("a")], instant(constant()), profile(min_rounds=6), database)
    assert (len(result.rounds), result.stable, result.throttled) == (6, True, False)
    assert (result.statistics.median, result.statistics.relative_width) == (1_000_000, 0)
    assert (result.metric, result.threads, result.load_ns, result.first_ns) == (Metric.WALL, 1, 11, 1_000_000)
    assert all(r.affinity == (0,) and r.after.time_ns > r.before.time_ns for r in result.rounds)


def test_rounds_go_on_until_the_interval_is_narrow(instant, candidate, profile, database) -> None:
    chosen = profile(min_rounds=5, max_rounds=60, target_width=0.02)
    (result,) = measure([candidate("a")], instant(noise(0.06)), chosen, database)
    assert 5 < len(result.rounds) < 60
    assert result.statistics.relative_width <= 0.02


def test_a_wide_interval_at_the_limit_is_unstable(instant, candidate, profile, database) -> None:
    chosen = profile(min_rounds=5, max_rounds=9, unstable_width=0.03)
    (result,) = measure([candidate("a")], instant(noise(0.5)), chosen, database)
    assert (len(result.rounds), result.stable) == (9, False)


def test_max_seconds_bounds_each_candidate(instant, candidate, profile, database) -> None:
    # The scripted clock gives each round 0.1 s.
    chosen, device = (
        profile(min_rounds=5, max_rounds=60, max_seconds=1.15, target_width=1e-9),
        instant(noise(0.01)),
    )
    results = measure([candidate("a"), candidate("b")], device, chosen, database, clock=device.clock)
    assert [len(m.rounds) for m in results] == [12, 12]


def test_samples_of_both_clocks_are_kept_apart(instant, candidate, profile, database) -> None:
    device = instant(constant(wall=1000, cpu=900))
    (wall,) = measure([candidate("a")], device, profile(), database)
    (cpu,) = measure([candidate("a")], device, profile(metric=Metric.CPU), database)
    assert (wall.metric, set(wall.rounds[0].samples), set(wall.rounds[0].also[Metric.CPU])) == (
        "wall",
        {1000},
        {900},
    )
    assert (cpu.metric, set(cpu.rounds[0].samples), set(cpu.rounds[0].also[Metric.WALL])) == (
        "cpu",
        {900},
        {1000},
    )
    assert [m.statistics.median for m in database.measurements(metric="cpu")] == [900]


def test_throttled_and_preempted_rounds_are_left_out(instant, candidate, profile, database) -> None:
    def model(name, number, n):
        wall, cpu = {6: (1_300_000, 1_300_000), 7: (1_300_000, 1_300_000), 10: (1_500_000, 1_000_000)}.get(
            number, (1_000_000, 1_000_000)
        )
        return {"wall_ns": [wall] * n, "cpu_ns": [cpu] * n}

    (result,) = measure([candidate("a")], instant(model), profile(min_rounds=8), database)
    assert [r.index for r in result.rounds if r.throttled] == [4, 5]  # after two requests to warm up
    assert [r.index for r in result.rounds if r.noisy] == [8]
    assert (len(result.rounds), result.stable, result.statistics.median) == (11, True, 1_000_000)
    assert result.statistics.count == sum(
        len(r.samples) for r in result.rounds if not (r.throttled or r.noisy)
    )


def test_warm_up_waits_until_windows_agree(instant, profile) -> None:
    falling = [9000, 4000, 2000, 1500, 1200, 1190, 1180]

    def model(name, number, n):
        return {"wall_ns": [falling[number]] * n, "cpu_ns": [1] * n}

    device = instant(model)
    warm = warm_up(device.start(["a"], {}, ()), profile(warmup_max_s=1e9).protocol)
    assert (warm.first_ns, warm.inference_ns, warm.steady) == (9000, 1190, True)
    endless = itertools.count(1)
    device = instant(lambda name, number, n: {"wall_ns": [2 ** next(endless)] * n, "cpu_ns": [1] * n})
    assert not warm_up(device.start(["a"], {}, ()), profile(warmup_max_s=1e9).protocol).steady
    assert len(device.log) == 65


@pytest.mark.parametrize(
    ("seconds", "ns", "expected"), [(0.25, 1e6, 250), (0.25, 1e9, 3), (0.25, 10, MOST_SAMPLES), (0.25, 0, 3)]
)
def test_a_round_holds_three_samples_or_as_many_as_fit(seconds, ns, expected) -> None:
    assert count(seconds, ns) == expected


def test_finished_measurements_are_reused_only_on_request(instant, candidate, profile, database) -> None:
    device = instant(constant())
    first = measure([candidate("a")], device, profile(), database)
    device.log.clear()
    assert measure([candidate("a")], device, profile(), database, reuse=True) == first
    assert device.log == []
    again = measure([candidate("a")], device, profile(), database)
    assert device.log
    assert len(database.measurements()) == 2
    assert again[0].rounds != first[0].rounds


def test_an_unstable_measurement_is_not_reused(instant, candidate, profile, database) -> None:
    chosen = profile(min_rounds=5, max_rounds=5, unstable_width=0.03)
    measure([candidate("a")], instant(noise(0.5)), chosen, database)
    (again,) = measure([candidate("a")], instant(constant()), chosen, database, reuse=True)
    assert again.stable


@pytest.mark.parametrize(
    "change", ["artifact", "target", "series", "threads", "profile", "fingerprint", "metric"]
)
def test_what_makes_another_population_is_never_reused(
    instant, candidate, profile, database, change: str
) -> None:
    device, chosen, what = instant(constant()), profile(), candidate("a", target={"runtime": "1"}, series="s")
    measure([what], device, chosen, database)
    if change == "artifact":
        what = replace(what, artifact_digest="other")
    elif change == "target":
        what = replace(what, target={"runtime": "2"})
    elif change == "series":
        what = replace(what, series="t")
    elif change == "threads":
        device.threads, chosen = 2, profile(threads=2)
    elif change == "profile":
        chosen = replace(chosen, name="q")
    elif change == "fingerprint":
        device.identity = {"machine": "other"}
    else:
        chosen = profile(metric=Metric.CPU)
    device.log.clear()
    measure([what], device, chosen, database, reuse=True)
    assert device.log


def test_equal_candidates_are_measured_once(instant, candidate, profile, database) -> None:
    results = measure(
        [candidate("a"), candidate("b"), candidate("a")], instant(constant()), profile(), database
    )
    assert results[0] == results[2] != results[1]
    assert len(database.measurements()) == 2
    apart = [candidate("a", series="1"), candidate("a", series="2")]
    assert len({id(m) for m in measure(apart, instant(constant()), profile(), database)}) == 2
    assert len(database.measurements()) == 4


def test_no_more_runners_are_up_than_allowed(instant, candidate, profile, database) -> None:
    device = instant(constant())
    chosen = profile(min_rounds=5, max_rounds=5)
    results = measure([candidate(n) for n in "abcd"], device, chosen, database, open_runners=2)
    assert device.most_open == 2
    assert [len(m.rounds) for m in results] == [5] * 4
    everything_up = instant(constant())
    measure([candidate(n) for n in "abcd"], everything_up, chosen, database)
    assert everything_up.most_open == 4


def test_a_device_that_is_not_the_expected_one_is_refused(instant, candidate, profile, database) -> None:
    device = instant(constant())
    with pytest.raises(DeviceError, match="expects machine = 'pixel', the device says 'imaginary'"):
        measure([candidate("a")], device, profile(expect={"machine": "pixel"}), database)
    with pytest.raises(
        DeviceError, match=r"expects build = 'x', the device says nothing; it tells \['machine'\]"
    ):
        measure([candidate("a")], device, profile(expect={"build": "x"}), database)
    assert device.log == []


def test_another_number_of_threads_is_refused(instant, candidate, profile, database) -> None:
    with pytest.raises(DeviceError, match="'a': the runner uses 4 threads, the profile 'p' asks for 1"):
        measure([candidate("a")], instant(constant(), threads=4), profile(), database)


@pytest.mark.parametrize(
    ("answer", "pattern"),
    [
        ({"wall_ns": [1, 2]}, "gave 2 samples of wall_ns where 1 were asked"),
        ({"cpu_ns": [1]}, "gave 0 samples of wall_ns"),
        ({"wall_ns": [1.5]}, "not a list of whole numbers"),
        ({"wall_ns": [1], "cpu_ns": []}, "gave 0 samples of cpu_ns"),
    ],
)
def test_answers_that_are_not_samples_are_refused(
    instant, candidate, profile, database, answer, pattern
) -> None:
    with pytest.raises(DeviceError, match=pattern):
        measure([candidate("a")], instant(lambda *_: answer), profile(), database)


def test_emulated_instructions_are_a_metric(instant, candidate, profile, database) -> None:
    device = instant(lambda name, number, n: {"instructions": [42] * n})
    (result,) = measure([candidate("a")], device, profile(metric=Metric.INSTRUCTIONS), database)
    assert (result.statistics.median, result.stable, result.rounds[0].also) == (42, True, {})
