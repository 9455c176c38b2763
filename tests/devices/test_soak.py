"""The soak in small: nothing lost, doubled or left over."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough  # many processes: minutes, left out of `make check`

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_forty_measurements_over_two_devices(soak, tmp_path: Path) -> None:
    counted = tmp_path / "found.json"
    # In a process of its own: what other tests left in this one must not be counted.
    subprocess.run(
        [sys.executable, SCRIPT, "--measurements", "40", "--json", counted], timeout=300, check=False
    )
    found = json.loads(counted.read_text())
    assert soak.faultless(found, flat=False), found
    assert [its["faults"] for its in found["devices"].values()] == [0, 0]
    assert sum(its["done"] for its in found["devices"].values()) == 40
    assert all(its["done"] for its in found["devices"].values())


def test_the_soak_sees_what_is_lost(soak, tmp_path: Path) -> None:
    database = str(tmp_path / "m.sqlite")
    soak.MeasurementDatabase(database).close()
    counted = soak._rows(database, "soak 1", 3)
    assert counted == {"lost": 3, "doubled": 0, "wrong_rounds": 0}
    fine = {"failures": [], **counted, "lost": 0, "left": {"processes": 0}, "worker_descriptors": [[9], [9]]}
    fine["memory"] = [{"kib_per_1000": 10.0}]
    assert soak.faultless(fine)
    for wrong in (
        {"lost": 1},
        {"doubled": 1},
        {"left": {"processes": 1}},
        {"worker_descriptors": [[9], [10]]},
    ):
        assert not soak.faultless(fine | wrong)
    assert not soak.faultless(fine | {"memory": [{"kib_per_1000": 5000.0}]})
