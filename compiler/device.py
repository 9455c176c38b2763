"""The port a device implements, and the profile that says how to use one.

A device knows no target: it pushes files, starts a command, and reports its state. A target
says what to push and start (`RunSpec`). A profile states what a device is and how to run on it;
it holds no latency.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from compiler.preflight import Preflight
from compiler.records import DeviceState, Metric

LATER = ("arch", "cpu", "clusters", "memory", "cluster")  # fields that profiles had not always


@dataclass(frozen=True)
class Completed:
    """What a finished command left behind."""

    exit_code: int
    stdout: str
    stderr: str


class Session(Protocol):
    """A runner that is up: one JSON request, one JSON answer."""

    @property
    def ready(self) -> Mapping[str, object]:
        """What the runner said when it was ready, `load_ns` and `threads`, and the `affinity` in force."""
        ...

    def request(self, message: Mapping[str, object], timeout_s: float = 600.0) -> dict[str, object]:
        """Send one request and return its answer.

        Raises DeviceError when the runner died, timed out, or answered `{"error": ...}`.
        """
        ...

    def close(self) -> None:
        """End the runner; safe to call twice."""
        ...


class Device(Protocol):
    """A machine that artifacts run on."""

    name: str

    def fingerprint(self) -> Mapping[str, str]:
        """Return what identifies the hardware and system, read from the device."""
        ...

    def state(self) -> DeviceState:
        """Return temperature, clocks, governor, load and battery as far as the device tells."""
        ...

    def push(self, path: Path, workspace: str | None = None) -> str:
        """Copy a file or folder, and return its path on the device.

        It is content-addressed and kept there, or else, a file, laid into a `workspace` and gone with it.
        """
        ...

    def pull(self, remote: str, path: Path) -> None:
        """Copy a file from the device."""
        ...

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600.0
    ) -> Completed:
        """Run a command to its end."""
        ...

    def start(self, command: Sequence[str], env: Mapping[str, str], affinity: Sequence[int]) -> Session:
        """Start a runner and return the session once it has said it is ready."""
        ...

    def interpreter(self, runtime: str) -> str:
        """Return the path of a Python that can import a runtime, brought to the device where it must be.

        Raises DeviceError where the device has none and none can be brought.
        """
        ...

    def workspace(self) -> AbstractContextManager[str]:
        """Return a private folder of the device, by its path there, that is gone afterwards."""
        ...


@dataclass(frozen=True)
class BenchmarkProtocol:
    """How a benchmark is run; its digest goes with every row, so populations never mix.

    With `cooldown_max_s` above 0, a round waits that long at most until the device is below
    `cool_below_c`, where that is given, and its clock is what it was at its best.
    """

    metric: Metric = Metric.WALL
    settle_s: float = 0.2
    warmup_s: float = 0.5
    warmup_max_s: float = 5.0
    round_s: float = 0.25
    min_rounds: int = 8
    max_rounds: int = 60
    max_seconds: float = 60.0
    target_width: float = 0.02
    unstable_width: float = 0.15
    cool_below_c: float | None = None
    cooldown_max_s: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Processors of one kind: the numbers Linux gives them, and what is known of their core."""

    name: str
    cpus: tuple[int, ...]
    core: str | None = None
    max_mhz: float | None = None


@dataclass(frozen=True)
class Memory:
    """A device's main memory, as far as it is known."""

    size_mb: int | None = None
    type: str | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """One TOML file of `profiles/`: what a device is and how to run on it.

    `arch` and `cpu` name the processor that code is made for, `cpu` in LLVM's words; None stands for
    the machine that edgewright runs on. `cluster` names the one whose processors `affinity` holds,
    and `sources` says of each fact where it was read.
    """

    name: str
    description: str
    transport: str
    targets: tuple[str, ...]
    threads: int
    affinity: tuple[int, ...] = ()
    soc: str | None = None
    isa: tuple[str, ...] = ()
    protocol: BenchmarkProtocol = field(default_factory=BenchmarkProtocol)
    expect: Mapping[str, str] = field(default_factory=dict)
    arch: str | None = None
    cpu: str | None = None
    clusters: tuple[Cluster, ...] = ()
    memory: Memory | None = None
    cluster: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    preflight: Preflight = field(default_factory=Preflight)

    def digest(self) -> str:
        """Return a digest of all the profile says, 16 hexadecimal digits.

        What is not stated of the `LATER` fields, a preflight and a cool-down is left out: the digest
        is the one from before it could be. Where a fact was read is left out too: it is no fact of the
        device.
        """
        unstated = {name for name in LATER if not getattr(self, name)} | {"sources"}
        if self.preflight == Preflight():
            unstated.add("preflight")
        stated = {name: value for name, value in asdict(self).items() if name not in unstated}
        return _digest(stated | {"protocol": _stated(self.protocol)})

    def protocol_digest(self) -> str:
        """Return a digest of what shapes a reading: threads, affinity and the protocol.

        What the device is shapes it too, but is the same whether or not the profile knows it.
        """
        return _digest(
            {"threads": self.threads, "affinity": self.affinity, "protocol": _stated(self.protocol)}
        )

    def on_this_machine(self) -> DeviceProfile:
        """Return the profile for a run on the machine that edgewright runs on.

        The CPUs of a profile that states a processor are another machine's.
        """
        if self.arch is None:
            return self
        return replace(self, arch=None, cpu=None, affinity=(), cluster=None)


def _stated(protocol: BenchmarkProtocol) -> dict[str, object]:
    # Without a cool-down the protocol is the one from before it could have one: so is its digest.
    waits = ("cool_below_c", "cooldown_max_s") if protocol.cooldown_max_s == 0 else ()
    return {name: value for name, value in asdict(protocol).items() if name not in waits}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
