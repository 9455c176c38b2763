"""Trials of schedules: kept batch by batch, found under the same conditions only."""

from __future__ import annotations

import sqlite3

import pytest

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.records import Metric
from compiler.tuning import Trial, best, shares
from devices.database import MeasurementDatabase
from devices.schedules import record_trials, recorded_trials, schedule_conditions

TRIALS = (Trial('[["Tile",[],[1]]]', 12.5, 50.0), Trial("[]", None, 50.0, "it does not run"))


class Bare:
    def __init__(self, **fingerprint):
        self.found = {"machine": "m"} | fingerprint

    def fingerprint(self):
        return self.found


def conditions(device=None, processor="a76", versions="1", **fields):
    profile = DeviceProfile("p", "", "local", ("tvm",), 1, **fields)
    return schedule_conditions(device or Bare(), profile, {"tvm": versions}, {"cpu": processor})


def test_trials_read_back_equal_by_kernel(database) -> None:
    assert recorded_trials(database, conditions()) == {}
    record_trials(database, "k1", conditions(), "local", TRIALS)
    record_trials(database, "k2", conditions(), "local", TRIALS[:1])
    record_trials(database, "k1", conditions(), "local", TRIALS[:1])
    assert recorded_trials(database, conditions()) == {"k1": [*TRIALS, TRIALS[0]], "k2": [TRIALS[0]]}


def test_trials_of_another_population_do_not_count(database) -> None:
    record_trials(database, "k", conditions(), "local", TRIALS)
    others = [
        *(conditions(Bare(machine="n")), conditions(processor="a55"), conditions(versions="2")),
        *(conditions(affinity=(4,)), conditions(protocol=BenchmarkProtocol(Metric.INSTRUCTIONS))),
    ]
    assert [recorded_trials(database, other) for other in others] == [{}] * 5
    assert recorded_trials(database, conditions(protocol=BenchmarkProtocol(round_s=9)))  # the same quantity


def test_a_database_from_before_gains_the_table_and_none_of_its_rows_can_be_changed(tmp_path) -> None:
    path = tmp_path / "m.sqlite"
    MeasurementDatabase(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE schedule_trial")
    with MeasurementDatabase(path) as database:
        assert recorded_trials(database, conditions()) == {}
        record_trials(database, "k", conditions(), "local", TRIALS)
        assert recorded_trials(database, conditions()) == {"k": list(TRIALS)}
    with sqlite3.connect(path) as raw:
        for statement in ("UPDATE schedule_trial SET latency = 1", "DELETE FROM schedule_trial"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


def test_the_best_trial_is_the_fastest_beside_its_own_baseline() -> None:
    slow_day, quick_day = Trial("a", 60.0, 200.0), Trial("b", 50.0, 100.0)
    assert best([quick_day, slow_day, Trial("c", None, 100.0)]) is slow_day
    assert best([Trial("a", 100.0, 100.0), Trial("b", None, 100.0)]) is None and best([]) is None


def test_trials_are_shared_by_weight_and_add_up() -> None:
    assert shares([70, 20, 10], 10) == [7, 2, 1] and shares([70, 20, 10], 1) == [1, 0, 0]
    assert shares([1, 1, 1], 8) == [3, 3, 2] and shares([0, 0], 5) == [0, 0] and shares([], 5) == []
    assert sum(shares([12345, 999, 1, 1], 64)) == 64
