"""A reading that throttled, or is not steady, decides nothing: not the target, not a schedule."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compiler.device import DeviceProfile
from compiler.errors import UnstableMeasurementError
from compiler.records import DeviceState, Measurement, Metric, Round, RunSpec, Statistics
from edgewright import choosing, schedule_runs

STATE = DeviceState(0)
PROFILE = DeviceProfile("p", "", "local", ("a", "b"), 1)


def row(name: str, median: float, stable: bool) -> dict:
    return {"target": name, "median_ns": median, "stable": stable}


def ranked(monkeypatch, *runs: list[dict]) -> list[dict]:
    left = list(runs)
    monkeypatch.setattr(choosing, "_measured", lambda *_: left.pop(0))
    found = choosing._ranked({"a": None, "b": None}, PROFILE, "local", "sqlite://", None, lambda _: None)
    assert left == []
    return found


def test_the_fastest_steady_target_comes_first(monkeypatch) -> None:
    steady = [row("a", 3, True), row("b", 2, True)]
    assert [r["target"] for r in ranked(monkeypatch, steady)] == ["b", "a"]


def test_an_unsteady_target_is_measured_again_and_cannot_win(monkeypatch) -> None:
    shaky = [row("a", 3, True), row("b", 2, False)]
    assert [r["target"] for r in ranked(monkeypatch, shaky, shaky)] == ["a", "b"]
    better = [row("a", 3, True), row("b", 2, True)]
    assert [r["target"] for r in ranked(monkeypatch, shaky, better)] == ["b", "a"]


def test_without_a_steady_reading_nothing_is_chosen(monkeypatch) -> None:
    shaky = [row("a", 3, False), row("b", 2, False)]
    with pytest.raises(UnstableMeasurementError, match="no target's reading on local is steady enough"):
        ranked(monkeypatch, shaky, shaky)


def reading(throttled: bool, stable: bool) -> Measurement:
    rounds = (Round(0, (5,), STATE, STATE, throttled=throttled),)
    statistics = Statistics(1, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)
    return Measurement(
        "a", "g", "p", "p", "d", "q", "local", {}, Metric.WALL, 1, rounds, statistics, 0, 0, stable
    )


@pytest.mark.parametrize(
    ("readings", "medians"),
    [
        ([reading(False, True)], [5.0]),
        ([reading(True, True)], [5.0]),  # throttled for a while, steady without those rounds
        ([reading(True, False), reading(False, True)], [5.0]),
        ([reading(True, False)] * 3, None),
    ],
)
def test_schedules_are_measured_again_until_the_clock_holds(monkeypatch, readings, medians) -> None:
    left = list(readings)
    monkeypatch.setattr(schedule_runs, "measure", lambda *_, **__: [left.pop(0)])
    device = SimpleNamespace(name="local")
    bench = schedule_runs.ScheduleBench("k", "tvm", device, PROFILE, None)
    if medians is None:
        with pytest.raises(UnstableMeasurementError, match="local throttles: 3 times over"):
            bench([RunSpec({}, ("x",))])
    else:
        assert bench([RunSpec({}, ("x",))]) == medians
    assert left == []
