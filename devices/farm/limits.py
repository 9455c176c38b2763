"""How long a farm waits for what, and how often it tries."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.device import BenchmarkProtocol

MARGIN_S = 600.0  # for pushing, loading, warming up and cooling down
ROOM = 10  # between the seconds of rounds that a protocol allows and the time a job may take


@dataclass(frozen=True)
class Limits:
    """The patience of a farm.

    A job that takes longer than `job_s` (by default, what its protocol may need many times over) is
    ended. A worker that gives no sign of life for `silence_s` is ended, and its device gets no more jobs;
    so is a device after `faults` faults without a success between them. A job is tried `tries` times.
    """

    job_s: float | None = None
    silence_s: float = 60.0
    start_s: float = 300.0
    tries: int = 3
    faults: int = 3

    def seconds(self, protocol: BenchmarkProtocol) -> float:
        """Return how long one job may take."""
        return MARGIN_S + ROOM * protocol.max_seconds if self.job_s is None else self.job_s
