"""kill -9 of the host's process at 20 points, from the first push to the last verdict: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from devices import open_device
from devices.database import MeasurementDatabase

pytestmark = pytest.mark.thorough  # many processes: minutes, left out of `make check`

SCRIPT = Path(__file__).with_name("dying_process.py")
ROOT = Path(__file__).parents[2]
SEED = 5
# The calls with which a stage begins. It ends where the next begins.
STAGES = {
    "open": "open_device call",
    "push": "push call",
    "start": "start_session call",
    "warm-up": "warm_up call",
    "rounds": "run_round call",
    "finish": "_finish call",
}


@pytest.fixture(scope="module")
def measure():
    """Measure in a child process that dies at a call; return its answer."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def ask(folder: Path, device: str, rounds: int, die_at: tuple[str, int] | None = None) -> dict:
        asked = {"folder": str(folder), "device": device, "rounds": rounds, "die_at": die_at}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    with process:
        yield ask
        process.stdin.close()


def points(calls: list[str], each: int) -> list[tuple[str, int]]:
    """Draw so many calls of every stage, counted from its first."""
    begins = [calls.index(name) for name in STAGES.values()]
    draw = random.Random(SEED)
    spans = zip(STAGES, begins, [*begins[1:], len(calls)], strict=True)
    return [(stage, call) for stage, a, b in spans for call in sorted(draw.sample(range(b - a), each))]


def shape(value: object) -> object:
    """Return a result's fields and types, without what differs from run to run."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value[:1]] if isinstance(value, list | tuple) else type(value)


def held(folder: Path) -> tuple[dict, tuple]:
    if not (folder / "m.sqlite").exists():
        return {}, ()
    with MeasurementDatabase(folder / "m.sqlite") as database:
        rounds = {row.id: database.rounds(row.id) for row in database._rows()}
        return rounds, database.measurements()


def kill_and_resume(measure: Callable, folder: Path, stage: str, call: int) -> tuple:
    """Kill at a call, measure again, and return the results; judge what the database holds on the way."""
    died = measure(folder, die_at=(STAGES[stage], call))
    assert died["status"] == signal.SIGKILL
    before, finished = held(folder)
    assert len(finished) in (0, 2)  # the verdicts of a run come together
    if finished:
        return finished
    assert measure(folder)["status"] == 0
    after, results = held(folder)
    assert before.keys() <= after.keys() and len(after) == 2 == len(results)
    assert all(after[row][: len(rounds)] == rounds for row, rounds in before.items())
    return results


def judge(measure: Callable, tmp_path: Path, device: str, rounds: int, each: int) -> int:
    """Kill at so many points of each stage; return how many there were."""
    one = partial(measure, device=device, rounds=rounds)
    whole = one(tmp_path / "whole")
    assert whole["status"] == 0
    _, expected = held(tmp_path / "whole")
    drawn = points(whole["calls"], each)
    for number, (stage, call) in enumerate(drawn):
        results = kill_and_resume(one, tmp_path / str(number), stage, call)
        where = f"killed {call} calls after {STAGES[stage]}"
        assert {m.artifact_digest for m in results} == {"artifact-a", "artifact-b"}, where
        assert [[r.index for r in m.rounds] for m in results] == [list(range(rounds))] * 2, where
        assert [shape(asdict(m)) for m in results] == [shape(asdict(m)) for m in expected], where
    return len(drawn)


def test_kills_at_twenty_points_lose_no_round_and_make_none_twice(measure, tmp_path: Path) -> None:
    assert judge(measure, tmp_path, "local", rounds=12, each=4) >= 20


@pytest.mark.target
def test_kills_while_a_phone_measures_lose_nothing_and_leave_no_runner_there(
    measure, phone, tmp_path: Path
) -> None:
    device = f"adb:direct:{phone.serial}"
    assert judge(measure, tmp_path, device, rounds=2, each=1) == len(STAGES)
    deadline = time.monotonic() + 60
    with closing(open_device(device)) as opened:
        while "instant_runner" in opened.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout:
            assert time.monotonic() < deadline, "a runner goes on on the phone"
            time.sleep(0.2)
