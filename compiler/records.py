"""The nouns that cross between targets, devices, measurements and search.

All are frozen values. Times are integers in nanoseconds unless the field name says otherwise;
the unit always stands in the field name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Metric(StrEnum):
    """What a sample counts. Kinds never mix in one table."""

    WALL = "wall"  # nanoseconds of elapsed time
    CPU = "cpu"  # nanoseconds of processor time
    INSTRUCTIONS = "instructions"  # emulated boards: executed instructions, not time


@dataclass(frozen=True)
class RunSpec:
    """How a device starts the runner of an artifact.

    `files` maps the name a file has in `command` to its path on the host. In `command`,
    `{name}` stands for the pushed file's path on the device and `{python}` for a Python of the
    device that can import `runtime` ("" where the runner needs none). The runner speaks one JSON
    document a line: requests on stdin, answers on stdout (see `devices/runner_protocol.md`).
    """

    files: Mapping[str, Path]
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""


@dataclass(frozen=True)
class Artifact:
    """A built folder: the runtime's file(s) and `manifest.json`.

    `manifest` is the parsed document: schema, target, inputs, outputs, digests of graph, plan
    and profile, versions, verification report, sizes in bytes.
    """

    folder: Path
    manifest: Mapping[str, object]

    @property
    def digest(self) -> str:
        """The content digest of the runtime's files, as the manifest records it."""
        return str(self.manifest["artifact_digest"])


@dataclass(frozen=True)
class DeviceState:
    """What the device said of itself at one moment; None where it cannot say."""

    time_ns: int
    temperature_c: float | None = None
    frequency_mhz: tuple[float, ...] = ()
    governor: str | None = None
    load_1min: float | None = None
    battery_percent: float | None = None
    thermal_status: str | None = None
    battery_c: float | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    power_save: bool | None = None


@dataclass(frozen=True)
class Round:
    """One uninterrupted series of samples, with the state before and after it.

    `samples` are in the measurement's own metric; `also` holds what the same iterations read in
    other metrics (it tells a slower clock from a busy machine, and never mixes with `samples`).
    `duration_ns` is its length on the host's monotonic clock, and `canary_ns` what one inference took
    just before it, where the protocol looks; both are None in rounds of older databases.
    """

    index: int
    samples: tuple[int, ...]
    before: DeviceState
    after: DeviceState
    affinity: tuple[int, ...] = ()
    throttled: bool = False
    noisy: bool = False
    also: Mapping[Metric, tuple[int, ...]] = field(default_factory=dict)
    duration_ns: int | None = None
    canary_ns: int | None = None


@dataclass(frozen=True)
class Statistics:
    """Order statistics of samples; `low` and `high` bound the median (bootstrap, 95%).

    The bounds of the 90th and the 99th percentile are None where there are too few samples for any.
    """

    count: int
    median: float
    low: float
    high: float
    p90: float
    p99: float
    minimum: float
    p90_low: float | None = None
    p90_high: float | None = None
    p99_low: float | None = None
    p99_high: float | None = None

    @property
    def relative_width(self) -> float:
        """Half the width of the interval over the median."""
        return (self.high - self.low) / 2 / self.median if self.median else float("inf")


@dataclass(frozen=True)
class Measurement:
    """All that was measured of one artifact on one device under one protocol.

    `peak_rss_bytes` is the most memory its runner held, where the runner tells; `size_bytes` is what
    was pushed to the device. `incidents` are the faults and waits on the way, oldest first.
    """

    artifact_digest: str
    graph_digest: str
    plan_digest: str
    profile: str
    profile_digest: str
    protocol_digest: str
    device: str
    fingerprint: Mapping[str, str]
    metric: Metric
    threads: int
    rounds: tuple[Round, ...]
    statistics: Statistics
    load_ns: int
    first_ns: int
    stable: bool
    peak_rss_bytes: int | None = None
    size_bytes: int | None = None
    incidents: tuple[str, ...] = ()

    @property
    def throttled(self) -> bool:
        """Whether any round was marked throttled (such rounds are left out of the statistics)."""
        return any(r.throttled for r in self.rounds)
