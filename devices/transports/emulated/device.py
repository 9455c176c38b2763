"""An emulated Arm board: real aarch64 programs on this machine, under qemu-user.

It shares this machine's files. What its programs compute is an Arm processor's; how long that takes is
nobody's, so that its one metric is the number of instructions executed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from compiler.device import Completed, Session
from compiler.errors import DeviceError
from compiler.records import DeviceState
from devices.bundle.processor import check_processor
from devices.local_device import LocalDevice
from devices.transports.emulated.cores import cpuinfo
from devices.transports.emulated.counting import CountingSession, Tally
from devices.transports.emulated.emulator import Emulator

# The guest sees these alone: the stack begins at the same address whatever the user's environment is.
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/nonexistent",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class EmulatedDevice(LocalDevice):
    """A board of one kind of core."""

    def __init__(self, core: str, cache: Path, emulator: Emulator) -> None:
        """Run programs through `emulator`, on copies of pushed files below `cache`."""
        super().__init__(cache)
        self.name = f"emulated:{core}"
        self._core = core
        self._emulator = emulator

    def identity(self) -> str:
        """Return nothing: counts of instructions disturb nobody, so nobody need wait."""
        return ""

    def interpreter(self, runtime: str) -> str:
        """Return a Python of the board with the runtime's own wheels.

        Raises DeviceError where there are none, and where the core lacks what they execute.
        """
        check_processor(runtime, cpuinfo(self._emulator.core, 1), self.name)
        return str(self._emulator.python(runtime))

    def fingerprint(self) -> Mapping[str, str]:
        """Return the emulated core, the emulator and the system it runs."""
        return {
            "machine": "aarch64",
            "processor": f"{self._core} (emulated)",
            "emulator": f"qemu-user {self._emulator.version}",
            "system": self._emulator.root.name,
        }

    def state(self) -> DeviceState:
        """Return the time: an emulated board has no temperature, clock or battery."""
        return DeviceState(time_ns=time.time_ns())

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600.0
    ) -> Completed:
        """Run a program of the board, or an aarch64 file of this machine, to its end."""
        with closing(Tally()) as tally:
            return super().run(self._emulated(command, env or {}, tally), None, timeout_s)

    def start(self, command: Sequence[str], env: Mapping[str, str], affinity: Sequence[int]) -> Session:  # type: ignore[override]
        """Start a runner whose inferences are counted; it is not bound to processors, which are one kind."""
        tally = Tally()
        try:
            session = self._start(self._emulated(command, env, tally), {}, (), shown=command)
        except BaseException:
            tally.close()
            raise
        return CountingSession(session, tally)

    def _emulated(self, command: Sequence[str], env: Mapping[str, str], tally: Tally) -> list[str]:
        program, *arguments = command
        settings = [f"{key}={value}" for key, value in {**ENVIRONMENT, **env}.items()]
        path = self._program(program)
        return ["env", "-i", *settings, *self._emulator.command(tally.path), path, *arguments]

    def _program(self, name: str) -> str:
        if "/" in name and Path(name).exists():
            return name
        place = self._emulator.root / "usr" / "bin" / name
        if not place.exists():
            raise DeviceError(f"{self.name} has no program {name!r}")
        return str(place)
