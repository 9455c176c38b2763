"""Through a link that breaks, no wrong result is taken and nothing hangs; the whole is `python -m tests.faults.run`."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from devices import line_session
from devices.shell import execution
from tests.faults import run as runs
from tests.faults.injection import KINDS

ROOT = Path(__file__).parents[2]
RUNS = 40
BELIEVING_RUNS = 80  # about one in six is wrong: where a fault strikes is the machine's timing


@pytest.mark.target
def test_forty_seeded_runs_take_no_wrong_result(adb_program):
    command = [
        sys.executable,
        "-m",
        "tests.faults.run",
        "--runs",
        str(RUNS),
        "--jobs",
        "2",
        "--adb",
        adb_program,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert sum(int(row[2]) for row in rows) == RUNS
    assert {row[0] for row in rows} == {*KINDS, "mixed"}
    assert sum(int(row[4]) for row in rows) >= RUNS // 5  # some get through: it is not all refused


def test_every_seed_has_its_plan_and_every_fault_both_ways():
    plans = [runs.plan(seed) for seed in range(RUNS)]
    assert plans == [runs.plan(seed) for seed in range(RUNS)]
    assert {(way, kind) for way, kind, *_ in plans} == {(w, k) for w in runs.WAYS for k in (*KINDS, "mixed")}


def raising(error):
    def work():
        raise error

    return work


def test_the_judge_tells_right_refused_wrong_and_hung_apart(monkeypatch):
    monkeypatch.setattr(runs, "HANG_S", 0.2)
    over = threading.Event()
    assert runs.judged(lambda: None) == (runs.RIGHT, "")
    assert runs.judged(raising(DeviceError("lost"))) == (runs.REFUSED, "lost")
    assert runs.judged(raising(IndexError("x")))[0] == runs.WRONG
    assert runs.judged(lambda: runs.expect("the file", b"a", b"b"))[0] == runs.WRONG
    assert runs.judged(over.wait)[0] == runs.HUNG
    over.set()


@pytest.mark.target
def test_without_our_checks_wrong_results_are_taken(adb_program, faulty, adb, tmp_path, monkeypatch):
    """What the checks are for: the same runs, with answers believed as they come, are judged wrong."""

    def believe(answer):
        body, _, code = answer.rpartition(b"\n")[0].rpartition(b"\n")[0].rpartition(b"=")
        return (int(code), body) if code.isdigit() else None

    monkeypatch.setattr(execution, "take_answer", believe)
    monkeypatch.setattr(line_session, "take_check", lambda request, line: line)
    adb("start-server")
    bench = runs.Bench(faulty, adb, tmp_path)
    monkeypatch.setattr(runs, "plan", lambda seed: ("server", "duplicate", {"duplicate": 0.1}, 10))
    ends = (runs.run_seed(bench, seed).end for seed in range(BELIEVING_RUNS))
    assert runs.WRONG in ends
