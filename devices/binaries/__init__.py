"""The user's own benchmark programs in the place of a runner: one file for each that can be read.

Such a program times itself and prints; it speaks no protocol. A session starts it once for each sample,
which is the mean of `RUNS` inferences after one more: its parts cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from compiler.device import Device
from compiler.errors import DeviceError, UsageError
from compiler.records import RunSpec
from devices.binaries.tool import Reading, Tool

RUNS = 10
LEAST_SAMPLES = 3
SAID = 500  # characters of what a failed program said
TARGETS = {"executorch": "executor_runner", "litert": "benchmark_model"}  # whose program reads whose files


def binary_spec(spec: RunSpec, target: str, binary: str, threads: int) -> RunSpec:
    """Return how to run a program of the user's on the program of `spec`; UsageError where it cannot be."""
    if target not in TARGETS:
        raise UsageError(f"no benchmark program of {target} can be read; [bin] takes {', '.join(TARGETS)}")
    if not Path(binary).is_file():
        raise UsageError(f"[bin] {target}: there is no file {binary!r}")
    files = {"program": spec.files["program"], "binary": Path(binary)}
    threaded = [word.replace("{threads}", str(threads)) for word in _tool(TARGETS[target]).arguments]
    return RunSpec(files, ("{binary}", *threaded), {}, binary=TARGETS[target])


def start_binary(device: Device, command: Sequence[str], name: str, affinity: Sequence[int]) -> BinarySession:
    """Return a session that starts `command` for each sample, with `{runs}` filled in."""
    mask = ("taskset", f"{sum(1 << cpu for cpu in affinity):x}") if affinity else ()
    return BinarySession(device, (*mask, *command), _tool(name), list(affinity))


class BinarySession:
    """Answers requests for times by starting a program; it answers no others."""

    def __init__(self, device: Device, command: Sequence[str], tool: Tool, affinity: list[int]) -> None:
        """Start the program once, to see that it runs and how long it loads."""
        self._device = device
        self._command = command
        self._tool = tool
        first = self._reading(1, 600.0)
        threads = next(word for word in command if word.startswith(tool.threads)).partition("=")[2]
        self.ready: Mapping[str, object] = {
            "event": "ready",
            "load_ns": first.load_ns,
            "first_ns": first.first_ns or first.mean_ns,
            "threads": int(threads),
            "affinity": affinity,
        }

    def request(self, message: Mapping[str, object], timeout_s: float = 600.0) -> dict[str, object]:
        """Return times; DeviceError for anything else, or when the program fails."""
        do: Any = message.get("do")
        if do not in ("time", "time_for"):
            raise DeviceError(f"unknown request {do!r}: {self._tool.name} only times its inferences")
        count = int(str(message.get("iterations", LEAST_SAMPLES)))
        return {"wall_ns": [self._reading(RUNS, timeout_s).mean_ns for _ in range(count)]}

    def close(self) -> None:
        """Do nothing: no program outlives a reading."""

    def _reading(self, runs: int, timeout_s: float) -> Reading:
        command = [word.replace("{runs}", str(runs)) for word in self._command]
        done = self._device.run(command, timeout_s=timeout_s)
        said = done.stdout + done.stderr
        if done.exit_code:
            raise DeviceError(
                f"{self._tool.name} ended with exit code {done.exit_code}: {said.strip()[-SAID:]!r}"
            )
        return self._tool.read(said, runs)


def _tool(name: str) -> Tool:
    known = [m.name for m in iter_modules(__path__) if m.name != "tool"]
    if name not in known:
        raise UsageError(f"there is no benchmark program {name!r}; known: {', '.join(known)}")
    tool: Tool = import_module(f"{__name__}.{name}").TOOL
    return tool
