"""Devices for a farm's workers: this machine under several names, and what can go wrong with it.

`desk:NAME` is a device of one kind, `shelf:NAME` of another; what follows a second colon goes wrong.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from compiler.errors import DeviceError
from compiler.records import RunSpec
from devices.benchmark import Candidate
from devices.transports.local import LocalDevice

RUNNER = Path(__file__).with_name("fake_runner.py")


class Desk(LocalDevice):
    """A device with a name of its own."""

    def __init__(self, spec: str, cache: Path) -> None:
        super().__init__(cache)
        self.kind, self.serial, *wrong = spec.split(":")
        self.wrong = wrong[0] if wrong else ""
        self.name = spec
        self.started = 0

    def identity(self) -> str:
        return self.serial

    def fingerprint(self) -> Mapping[str, str]:
        if self.wrong == "lost" and self.started:
            raise DeviceError(f"{self.name} is gone")
        if self.wrong.startswith("late-"):
            time.sleep(float(self.wrong.removeprefix("late-")))
        return {"machine": self.kind}

    def start(self, command, env, affinity):
        self.started += 1
        if self.wrong == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.wrong == "freezes":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.wrong == "hangs":
            super().start(command, env, affinity)  # its runner is up, and nobody asks it anything
            time.sleep(600)
        if self.wrong == "lost":
            raise DeviceError(f"{self.name} is gone")
        if self.wrong == "dies-once" and not (mark := self._cache.parent / "died").exists():
            session = super().start(command, env, affinity)
            original = session.request

            def request(message, timeout_s=600.0):
                if self.started and session.ready.setdefault("asked", 0) >= 4:
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                session.ready["asked"] += 1
                return original(message, timeout_s)

            session.request = request
            return session
        return super().start(command, env, affinity)


def open_desk(spec: str, cache: Path | None) -> Desk:
    """Return the device that a spec names."""
    assert cache is not None
    if spec.startswith("nowhere"):
        raise DeviceError(f"{spec} does not answer")
    return Desk(spec, cache)


def candidate(name: str, log: Path, *arguments: str, series: str = "") -> Candidate:
    """Return a made-up program; each of its requests leaves a line in the log."""
    command = (sys.executable, "{runner}", "--log", str(log), "--name", name, *arguments)
    return Candidate(
        name, f"artifact-{name}", "graph", "plan", RunSpec({"runner": RUNNER}, command), series=series
    )
