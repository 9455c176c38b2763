"""Kernels measured in runs, and the latency table as a query over what was stored."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from compiler.cost.kernel import TensorSpec, kernel_call
from compiler.cost.latency_table import Entry
from compiler.records import Metric
from devices.database import MeasurementDatabase
from devices.latency import (
    CHAINS,
    ROUND_S,
    ROUNDS,
    RUN_KERNELS,
    Conditions,
    _combine,
    chain_label,
    kernel_profile,
    latency_table,
    measure_run,
    split_runs,
)

FIXED, LAUNCH = 2500, 90
# Three rounds of three samples: an interval of few rounds has a closed form and needs no bootstrap.
QUICK = {"min_rounds": 3, "max_rounds": 3, "round_s": 1e-9}
TARGET = {"target": "paper", "paper": "1"}


def text(width: int) -> str:
    return kernel_call("aten.relu.default", {"self": TensorSpec((1, width), "float32", False)}).text


class Times:
    """A device's times by program: `kernels` maps a width to nanoseconds beyond the fixed cost."""

    def __init__(self, kernels, fixed=FIXED, launch=LAUNCH, jitter=0.0):
        self.known = {str(width): ns + fixed for width, ns in kernels.items()}
        self.known |= {f"chain{n}": fixed + n * launch for n in CHAINS}
        self.jitter = jitter

    def __call__(self, name, number, iterations):
        base = self.known[name]
        # Rounds differ by `jitter`, up, down and not; processor time says that nobody else ran.
        taken = [round(base * (1 + self.jitter * (number % 3 - 1)))] * iterations
        return {"wall_ns": taken, "cpu_ns": taken}


@pytest.fixture
def bench(instant, candidate, profile, database):
    """Measure widths on a device of given times and return the table under some conditions."""

    def measure(widths, times, used=None, target=TARGET, progress=None, identity=None, artifact=None):
        used = used or profile(**QUICK)
        device = instant(times, threads=used.threads, identity=identity or {"machine": "imaginary"})
        kernels = [
            replace(
                candidate(str(w), target=target),
                label=text(w),
                artifact_digest=artifact or f"artifact-{w}",
            )
            for w in widths
        ]
        chains = {n: candidate(f"chain{n}", target=target) for n in CHAINS}
        found = measure_run(kernels, chains, device, used, database, progress)
        return found, device

    return measure


def under(profile, target=TARGET, identity=None) -> Conditions:
    return Conditions("instant", identity or {"machine": "imaginary"}, target, profile)


def test_the_fixed_cost_of_a_call_is_taken_off_and_the_launch_stays(bench, database, profile) -> None:
    found, _ = bench([8, 16], Times({8: 40_000, 16: 123_456}))
    assert [m.statistics.median for m in found] == [42_500, 125_956]  # rows keep what was read
    table = latency_table(database, under(profile(**QUICK)))
    assert table.fixed.median == FIXED
    assert {t: e.median for t, e in table.entries.items()} == {text(8): 40_000, text(16): 123_456}
    assert table.label == "latency table of instant, paper, 1 thread, 2 kernels"


def test_nothing_measured_is_an_empty_table(database, profile) -> None:
    table = latency_table(database, under(profile()))
    assert (dict(table.entries), table.fixed) == ({}, None)


def test_a_kernel_below_the_noise_floor_costs_little_but_not_nothing(bench, database, profile) -> None:
    bench([8, 16], Times({8: 0, 16: -700}))
    entries = latency_table(database, under(profile(**QUICK))).entries
    assert entries[text(8)] == entries[text(16)] == Entry(1.0, 1.0, 1.0)


def test_chains_of_equal_time_make_the_whole_call_fixed(bench, database, profile) -> None:
    """A runtime that folds the chain into one operation."""
    bench([8], Times({8: 5000}, launch=0))
    table = latency_table(database, under(profile(**QUICK)))
    assert (table.fixed.median, table.entries[text(8)].median) == (FIXED, 5000)


def test_a_chain_faster_by_noise_cannot_make_the_fixed_cost_exceed_a_call(bench, database, profile) -> None:
    bench([8], Times({8: 50_000}, launch=-100))
    fixed = latency_table(database, under(profile(**QUICK))).fixed
    assert fixed.median == FIXED - 100  # the chain of one, as read


def test_the_interval_holds_that_of_the_chains(bench, database, profile) -> None:
    (found,), _ = bench([8], Times({8: 40_000}, jitter=0.01))
    table = latency_table(database, under(profile(**QUICK)))
    own, fixed, raw = table.entries[text(8)], table.fixed, found.statistics
    assert fixed.low < fixed.median < fixed.high
    assert raw.low < raw.median < raw.high
    below, above = (
        (raw.median - raw.low, fixed.high - fixed.median),
        (raw.high - raw.median, fixed.median - fixed.low),
    )
    assert own.median - own.low == pytest.approx(math.hypot(*below))
    assert own.high - own.median == pytest.approx(math.hypot(*above))


def test_bounds_of_a_combination_add_up_as_squares() -> None:
    a, b = Entry(100.0, 96.0, 103.0), Entry(30.0, 24.0, 34.0)
    found = _combine((1.0, a), (-0.5, b))
    assert found.median == 85.0
    assert found.low == pytest.approx(85 - (4**2 + 2**2) ** 0.5)  # low of a, high of b
    assert found.high == pytest.approx(85 + (3**2 + 3**2) ** 0.5)  # high of a, low of b


def test_a_run_whose_chain_throttled_gives_no_entries(bench, database, profile) -> None:
    class Falling(Times):
        def __call__(self, name, number, iterations):
            answer = super().__call__(name, number, iterations)
            slow = 1.3 if name == "chain1" and number >= 4 else 1.0
            return {kind: [round(slow * ns) for ns in values] for kind, values in answer.items()}

    used = profile(**QUICK | {"min_rounds": 6, "max_rounds": 6})
    bench([8], Falling({8: 40_000}), used)
    assert dict(latency_table(database, under(used)).entries) == {}
    bench([8], Times({8: 40_000}), used)
    assert set(latency_table(database, under(used)).entries) == {text(8)}


def test_each_run_uses_its_own_chains(bench, database, profile) -> None:
    bench([8], Times({8: 40_000}, fixed=2500))
    bench([16], Times({16: 40_000}, fixed=9000))
    table = latency_table(database, under(profile(**QUICK)))
    assert {e.median for e in table.entries.values()} == {40_000}
    assert table.fixed.median == 9000  # of the newest run


def test_the_newest_steady_reading_counts(bench, database, profile) -> None:
    bench([8], Times({8: 40_000}))
    bench([8, 16], Times({8: 50_000, 16: 7}))
    assert latency_table(database, under(profile(**QUICK))).entries[text(8)].median == 50_000
    bench([8], Times({8: 90_000}, jitter=0.5))
    assert latency_table(database, under(profile(**QUICK))).entries[text(8)].median == 50_000


def test_an_unsteady_kernel_is_left_out_and_its_neighbours_stay(bench, database, profile) -> None:
    times = Times({8: 40_000, 16: 30_000})

    def one_shakes(name, number, iterations):
        steady = times(name, number, iterations)
        return {k: [v[0] * (1 + (name == "16") * (number % 3))] * iterations for k, v in steady.items()}

    found, _ = bench([8, 16], one_shakes)
    assert [m.stable for m in found] == [True, False]
    assert set(latency_table(database, under(profile(**QUICK))).entries) == {text(8)}


@pytest.mark.parametrize(
    "other",
    [
        {"target": {**TARGET, "paper": "2"}},
        {"target": {"target": "pen", "paper": "1"}},
        {"identity": {"machine": "another"}},
    ],
)
def test_other_versions_and_devices_are_not_mixed_in(bench, database, profile, other) -> None:
    bench([8], Times({8: 40_000}))
    assert not latency_table(database, under(profile(**QUICK), **other)).entries
    bench([8], Times({8: 70_000}), **other)
    assert latency_table(database, under(profile(**QUICK))).entries[text(8)].median == 40_000
    assert latency_table(database, under(profile(**QUICK), **other)).entries[text(8)].median == 70_000


def test_other_threads_protocols_and_profiles_are_not_mixed_in(bench, database, profile) -> None:
    used = profile(**QUICK)
    bench([8], Times({8: 40_000}), used)
    cpu = profile(**QUICK, metric=Metric.CPU)
    for other in (profile(2, **QUICK), profile(**QUICK | {"max_rounds": 6}), cpu, replace(used, name="q")):
        assert not latency_table(database, under(other)).entries
    bench([8], Times({8: 90_000}), cpu)
    table = latency_table(database, under(cpu))
    assert (table.metric, table.entries[text(8)].median) == (Metric.CPU, 90_000)
    assert latency_table(database, under(used)).entries[text(8)].median == 40_000


def test_kernels_that_lower_to_the_same_file_each_get_their_reading(bench, database, profile) -> None:
    bench([8, 16], Times({8: 40_000, 16: 41_000}), artifact="same")
    entries = latency_table(database, under(profile(**QUICK))).entries
    assert {t: e.median for t, e in entries.items()} == {text(8): 40_000, text(16): 41_000}


def test_ordinary_measurements_and_runs_without_chains_give_no_price(
    instant, candidate, profile, database
) -> None:
    from devices.benchmark import measure

    used = kernel_profile(profile(**QUICK))
    device = instant(Times({8: 40_000}))
    plain = replace(candidate("8", target=TARGET), label=text(8))
    measure([plain], device, used, database)
    measure([replace(plain, series="kernels/1 0123456789abcdef x")], device, used, database)
    assert len(database.measurements()) == 2
    assert not latency_table(database, under(profile(**QUICK))).entries


def test_rounds_are_interleaved_with_the_chains(bench) -> None:
    _, device = bench([8, 16], Times({8: 40_000, 16: 30_000}))
    rounds = device.log[-3 * 4 :]
    assert [sorted(rounds[i : i + 4]) for i in range(0, 12, 4)] == [["16", "8", "chain1", "chain9"]] * 3
    assert len({rounds[i] for i in range(0, 12, 4)}) == 3  # none is always the first


def test_an_interrupted_run_makes_only_the_missing_rounds(bench, database, profile) -> None:
    events = []

    def stop(event):
        events.append(event)
        if sum(e.event == "round" for e in events) == 7:
            raise KeyboardInterrupt

    times = Times({8: 40_000, 16: 30_000})
    with pytest.raises(KeyboardInterrupt):
        bench([8, 16], times, progress=stop)
    assert not latency_table(database, under(profile(**QUICK))).entries
    again = []
    bench([8, 16], times, progress=again.append)
    assert Counter(e.event for e in again)["round"] == 4 * 3 - 7
    assert Counter(e.event for e in again)["resumed"] == 4
    assert len(latency_table(database, under(profile(**QUICK))).entries) == 2


def test_runs_are_the_same_again_when_the_first_are_done() -> None:
    texts = [text(w) for w in range(1, 2 * RUN_KERNELS + 4)]
    runs = list(split_runs(reversed(texts)))
    assert [len(r) for r in runs] == [RUN_KERNELS, RUN_KERNELS, 3]
    assert list(split_runs(set(texts) - set(runs[0]))) == runs[1:]


def test_the_protocol_of_kernels_is_shorter_and_fixed_within_what_the_profile_allows(profile) -> None:
    def rounds(**fields):
        protocol = kernel_profile(profile(**fields)).protocol
        return protocol.round_s, protocol.min_rounds, protocol.max_rounds

    assert rounds(round_s=0.25, min_rounds=8, max_rounds=60) == (ROUND_S, ROUNDS, ROUNDS)
    assert rounds(round_s=0.02, min_rounds=3, max_rounds=4) == (0.02, 4, 4)
    assert rounds(min_rounds=30, max_rounds=60)[1:] == (30, 30)
    kept = profile(settle_s=0.5, metric=Metric.CPU, unstable_width=0.3)
    protocol = kernel_profile(kept).protocol
    assert (protocol.settle_s, protocol.metric, protocol.unstable_width) == (0.5, Metric.CPU, 0.3)
    assert kernel_profile(kept).name == kept.name


def test_the_rows_are_marked_as_kernels(bench, database) -> None:
    bench([8], Times({8: 40_000}))
    found = database.summaries("kernels/1 ")
    assert [s.label for s in found] == [text(8), *map(chain_label, CHAINS)]
    assert len({s.series.split()[1] for s in found}) == 1
    assert len({s.series for s in found}) == 3
    assert database.summaries("kernels/1 ", profile="other") == ()
    assert database.summaries("kernels/2 ") == database.summaries("kernels_1 ") == ()


def test_a_table_is_read_from_the_file_alone(bench, database, profile) -> None:
    bench([8], Times({8: 40_000}))
    with MeasurementDatabase(database.where) as again:
        assert latency_table(again, under(profile(**QUICK))).entries[text(8)].median == 40_000
