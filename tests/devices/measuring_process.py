"""Measures with fake runners into a database until it is done or killed: DATABASE CACHE LOG."""

from __future__ import annotations

import sys
from pathlib import Path

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.records import RunSpec
from devices.benchmark import Candidate, measure
from devices.database import MeasurementDatabase
from devices.transports.local import LocalDevice

RUNNER = Path(__file__).with_name("fake_runner.py")
PROTOCOL = BenchmarkProtocol(
    settle_s=0, warmup_s=0, warmup_max_s=0, round_s=0.01, min_rounds=12, max_rounds=12, target_width=1e-9
)
PROFILE = DeviceProfile("test", "", "local", ("fake",), threads=1, protocol=PROTOCOL)


def candidates(log: Path, delay: float) -> list[Candidate]:
    def one(name: str) -> Candidate:
        command = ("{python}", "{runner}", "--log", str(log), "--name", name, "--delay", str(delay))
        return Candidate(name, f"artifact-{name}", "graph", "plan", RunSpec({"runner": RUNNER}, command))

    return [one("a"), one("b")]


if __name__ == "__main__":
    database, cache, log = map(Path, sys.argv[1:])
    measure(candidates(log, 0.05), LocalDevice(cache), PROFILE, MeasurementDatabase(database))
