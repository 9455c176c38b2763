"""A search that is killed, at twenty random points, ends with the plan of the undisturbed one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devices.database import MeasurementDatabase

pytestmark = [pytest.mark.target, pytest.mark.slow]
COMMAND = (sys.executable, "-m", "tests.edgewright.searching_process")
ROOT = Path(__file__).parents[2]


def started(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def finished(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return said.decode()


def measured(folder: Path) -> list[tuple[str, str, int]]:
    """Return what was measured, each with its number of rounds; a measurement made twice is there twice."""
    with MeasurementDatabase(folder / "measurements.db") as database:
        found = database.measurements()
        assert all([r.index for r in m.rounds] == list(range(len(m.rounds))) for m in found)
        return sorted((m.plan_digest, m.artifact_digest, len(m.rounds)) for m in found)


def test_killed_at_twenty_random_points_it_ends_with_the_same_plan_and_repeats_nothing(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    begun = time.monotonic()
    plan = finished(started(whole))
    seconds = time.monotonic() - begun
    points, killed = random.Random(0), 0
    for point in range(20):
        folder = tmp_path / str(point)
        folder.mkdir()
        process = started(folder)
        time.sleep(points.uniform(0.2, 0.95) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert finished(started(folder)) == plan
        assert measured(folder) == measured(whole)
    assert killed >= 15  # the others ended before
