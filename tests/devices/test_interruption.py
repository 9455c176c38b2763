"""Killed, interrupted or crashed: no finished round is lost, none is made twice."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from compiler.records import RunSpec
from devices.benchmark import Candidate, Progress, measure
from devices.database import MeasurementDatabase
from devices.transports.local import LocalDevice

SCRIPT = Path(__file__).with_name("measuring_process.py")
ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


def _load():
    spec = importlib.util.spec_from_file_location("measuring_process", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


common = _load()


def wait_until(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # In a container nothing may reap an orphan: a zombie has ended too.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def requests(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def held(path: Path) -> dict[int, tuple]:
    with MeasurementDatabase(path) as database:
        ids = [row.id for row in database._rows()]
        return {i: database.rounds(i) for i in ids}


def test_kill_9_loses_no_finished_round_and_repeats_none(tmp_path: Path) -> None:
    database, log = tmp_path / "m.sqlite", tmp_path / "log"
    command = [sys.executable, str(SCRIPT), str(database), str(tmp_path / "cache"), str(log)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_until(lambda: process.poll() is not None or (database.exists() and log.exists()))
        wait_until(lambda: process.poll() is not None or sum(map(len, held(database).values())) >= 7)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    before = held(database)
    made = sum(map(len, before.values()))
    assert 7 <= made < 24
    assert process.returncode == -signal.SIGKILL
    # The orphaned runners end by themselves.
    wait_until(lambda: all(gone(r["pid"]) for r in requests(log)))

    log.unlink()
    with MeasurementDatabase(database) as again:
        results = measure(common.candidates(log, 0.0), LocalDevice(tmp_path / "cache"), common.PROFILE, again)

    after = held(database)
    assert after.keys() == before.keys()
    assert all(after[i][: len(rounds)] == rounds for i, rounds in before.items())
    assert [len(m.rounds) for m in results] == [12, 12]
    assert [[r.index for r in m.rounds] for m in results] == [list(range(12))] * 2
    # Each runner is asked twice to warm up; whatever more it was asked are new rounds.
    assert len(requests(log)) == 2 * 2 + 24 - made


def test_ctrl_c_ends_the_runners_and_keeps_the_rounds(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt(progress: Progress) -> None:
        if (progress.label, progress.event, progress.rounds) == ("b", "round", 2):
            raise KeyboardInterrupt

    with MeasurementDatabase(tmp_path / "m.sqlite") as database:
        device = LocalDevice(tmp_path / "cache")
        with pytest.raises(KeyboardInterrupt):
            measure(common.candidates(log, 0.0), device, common.PROFILE, database, interrupt)
        assert all(gone(r["pid"]) for r in requests(log))
        before = held(tmp_path / "m.sqlite")
        assert sorted(map(len, before.values())) == [1, 2]  # a b, b: the order rotates
        assert database.measurements() == ()
        events: list[Progress] = []
        results = measure(common.candidates(log, 0.0), device, common.PROFILE, database, events.append)
    told = [e.event for e in events if e.event != "preflight"]  # a busy machine is told of
    assert Counter(told) == {"resumed": 2, "ready": 2, "round": 21, "finished": 2}
    kept = [m.rounds[: len(rounds)] for m, rounds in zip(results, before.values(), strict=True)]
    assert kept == list(before.values())


def test_a_crash_names_the_candidate_and_keeps_the_rounds(tmp_path: Path) -> None:
    good = common.candidates(tmp_path / "log", 0.0)[0]
    crash = ("{python}", "{runner}", "--die-at", "4")
    bad = Candidate("worse", "artifact-bad", "g", "p", RunSpec({"runner": common.RUNNER}, crash))
    words = pytest.raises(DeviceError, match=r"(?s)'worse'.*SIGABRT.*the last straw")
    with MeasurementDatabase(tmp_path / "m.sqlite") as database, words:
        measure([good, bad], LocalDevice(tmp_path / "cache"), common.PROFILE, database, retries=0)
    # It falls at its fifth request: two to warm up, two rounds, and then the other one was first.
    assert [len(rounds) for rounds in held(tmp_path / "m.sqlite").values()] == [3, 2]
