"""Measures again and again in children of one process, each killed with signal 9 where it is told.

One JSON document a line on stdin, `{"folder": path, "device": spec, "rounds": number, "die_at": [call,
number] or null}`, and one on stdout: `{"status": wait status, "calls": names}`. A call is a Python call into
`devices/` or a return from one, by the main thread; death comes so many calls after the first of that
name. The names answered are those of a run that was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import devices
from compiler.records import RunSpec
from devices import open_device
from devices.benchmark import Candidate, measure
from devices.database import MeasurementDatabase
from devices.lease import lease
from tests.devices.measuring_process import PROFILE

WATCHED = os.path.dirname(devices.__file__)
RUNNER = Path(__file__).parents[2] / "benchmarks" / "shared" / "instant_runner.sh"


def candidate(name: str) -> Candidate:
    """Return a made-up program that any shell runs."""
    return Candidate(
        name, f"artifact-{name}", "graph", "plan", RunSpec({"runner": RUNNER}, ("sh", "{runner}"))
    )


def run(folder: Path, spec: str, rounds: int, die_at: tuple[str, int] | None) -> list[str]:
    """Measure into a folder's database; die at a call, or return the names of all."""
    protocol = replace(PROFILE.protocol, min_rounds=rounds, max_rounds=rounds)
    calls: list[str] = []
    begun: list[int] = []

    def watch(frame, event, argument) -> None:
        if event in ("call", "return") and frame.f_code.co_filename.startswith(WATCHED):
            calls.append(f"{frame.f_code.co_name} {event}")
            if die_at and calls[-1] == die_at[0] and not begun:
                begun.append(len(calls))
            if die_at and begun and len(calls) - begun[0] == die_at[1]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    try:
        device = open_device(spec, folder / "cache")
        with (
            MeasurementDatabase(folder / "m.sqlite") as database,
            lease(device, database, wait_s=0, folder=folder / "leases"),
        ):
            measure([candidate("a"), candidate("b")], device, replace(PROFILE, protocol=protocol), database)
    finally:
        sys.setprofile(None)
    return calls


def child(folder: Path, spec: str, rounds: int, die_at: tuple[str, int] | None) -> tuple[int, list[str]]:
    """Run in a child of this process, for which all is imported already."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            (folder / "calls").write_text(json.dumps(run(folder, spec, rounds, die_at)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return status, json.loads((folder / "calls").read_text()) if status == 0 else []


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        folder.mkdir(exist_ok=True)
        status, calls = child(folder, asked["device"], asked["rounds"], asked["die_at"])
        sys.stdout.write(json.dumps({"status": status, "calls": calls}) + "\n")
        sys.stdout.flush()
