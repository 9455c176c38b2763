"""What a farm does, as values, and the port that every farm implements.

A farm over several hosts (Ray's actors, say) implements `Farm` with what is here and in
`devices/farm/worker.py`: an actor pinned to the host of a device calls `open_device`, holds
`devices.lease.lease` for its life, and answers each job by `worker.work`. A job and what is sent back
are values that can be pickled. The database is then a server: it keeps the results, the lease that holds
across hosts, and the key by which a job that is tried again takes up the rounds made before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from compiler.device import Device, DeviceProfile
from compiler.records import Measurement
from devices.series import Candidate

Opener = Callable[[str, Path | None], Device]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One program to measure: what it is, how to run it, and on which kind of device.

    The candidate's files lie where the workers can read them. `kind` is the digest of the fingerprint
    that the device must have, "" for any. With `reuse`, a steady reading that the database holds of the
    same key is the result.
    """

    candidate: Candidate
    profile: DeviceProfile
    kind: str = ""
    reuse: bool = False

    @property
    def key(self) -> str:
        """A digest of what makes two jobs one, 16 hexadecimal digits."""
        one = self.candidate
        what = [one.artifact_digest, dict(one.target), one.series, self.profile.digest(), self.kind]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DeviceReport:
    """What became of one device of a farm; `reason` says why it is out, "" while it works."""

    device: str
    kind: str
    fingerprint: Mapping[str, str]
    done: int
    faults: int
    reason: str


class Farm(Protocol):
    """Devices that measure for one queue of jobs.

    Each job is done exactly once: its result is one finished measurement in the database. What fails
    is tried again, on another device of the same kind where there is one, and goes on from the rounds
    that were made. A device that fails again and again gets no more jobs.
    """

    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """Return the specs of the devices that work, by the digest of their fingerprint."""
        ...

    def submit(self, job: Job) -> Future[Measurement]:
        """Queue a job, or find it there already; its future holds the measurement or what went wrong.

        A DeviceError tells every try, with the device and the reason.
        """
        ...

    def drain(self, tell: Tell = lambda _: None) -> None:
        """Wait until all jobs are done or have failed; `tell` is called meanwhile, in this thread."""
        ...

    def devices(self) -> tuple[DeviceReport, ...]:
        """Return what became of each device."""
        ...

    def close(self) -> None:
        """End all workers and their runners; finished rounds stay in the database. Safe to call twice."""
        ...

    def __enter__(self) -> Farm:
        """Return the farm itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        ...
