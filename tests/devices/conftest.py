"""A device whose runners and states are made up, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.records import DeviceState, RunSpec
from devices.benchmark import Candidate
from devices.clock import Clock
from devices.database import MeasurementDatabase
from tests.standin_phone import running_adb_server, running_phone


@dataclass
class InstantDevice:
    """Answers at once; `model(command, request number, iterations)` gives wall and cpu samples.

    `clock` is a scripted one: a request takes 0.1 s of it, and whoever sleeps by it is in `slept`.
    `says` gives what the state holds besides its time; it may raise.
    """

    model: Callable[[str, int, int], Mapping[str, list[int]]]
    threads: int = 1
    name: str = "instant"
    identity: dict[str, str] = field(default_factory=lambda: {"machine": "imaginary"})
    log: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    most_open: int = 0
    time_ns: int = 0
    says: Callable[[InstantDevice], Mapping[str, object]] = lambda device: {}
    seconds: float = 0.0
    slept: list[float] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def fingerprint(self) -> Mapping[str, str]:
        return self.identity

    def state(self) -> DeviceState:
        self.time_ns += 100_000_000
        return DeviceState(**{"time_ns": self.time_ns, **self.says(self)})

    def push(self, path: Path, workspace: str | None = None) -> str:
        return f"/pushed/{path.name}"

    def start(self, command, env, affinity) -> InstantSession:
        self.open.add(command[0])
        self.most_open = max(self.most_open, len(self.open))
        return InstantSession(self, command[0])


class InstantSession:
    def __init__(self, device: InstantDevice, name: str) -> None:
        self.device, self.name, self.count = device, name, 0
        self.ready = {"event": "ready", "load_ns": 11, "threads": device.threads, "affinity": [0]}

    def request(self, message: Mapping[str, object], timeout_s: float = 600.0) -> dict[str, object]:
        if message["do"] == "memory":
            return {"peak_rss_bytes": 1 << 20}
        self.device.log.append(self.name)
        self.device.seconds += 0.1
        answer = self.device.model(self.name, self.count, message["iterations"])
        self.count += 1
        return dict(answer)

    def close(self) -> None:
        self.device.open.discard(self.name)


@pytest.fixture
def instant():
    """Make an InstantDevice."""
    return InstantDevice


@pytest.fixture
def candidate():
    """Make a candidate whose command and artifact are its name."""

    def make(name: str, **fields: object) -> Candidate:
        return Candidate(name, f"artifact-{name}", f"graph-{name}", "plan", RunSpec({}, (name,)), **fields)

    return make


@pytest.fixture
def profile():
    """Make a profile with a protocol that neither settles nor waits."""

    def make(threads: int = 1, expect=None, **fields: object) -> DeviceProfile:
        quick = {"settle_s": 0.0, "warmup_s": 0.0, "warmup_max_s": 0.0, "round_s": 0.01} | fields
        protocol = BenchmarkProtocol(**quick)
        return DeviceProfile("p", "", "local", ("t",), threads, protocol=protocol, expect=expect or {})

    return make


@pytest.fixture
def database(tmp_path: Path):
    with MeasurementDatabase(tmp_path / "measurements.sqlite") as opened:
        yield opened


@pytest.fixture(scope="session")
def phone():
    """A stand-in phone that lets any client in."""
    with running_phone() as started:
        yield started


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory):
    """An adb server on a private port."""
    with running_adb_server(tmp_path_factory.mktemp("adb")) as started:
        yield started


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory):
    """An SSH server on the loopback."""
    from tests.ssh_board import ssh_board

    with ssh_board(tmp_path_factory.mktemp("ssh")) as board:
        yield board
