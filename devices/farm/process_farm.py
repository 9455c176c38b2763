"""The farm on one host: a worker process and a thread for each device."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from compiler.errors import DeviceError, UsageError
from compiler.records import Measurement
from devices import lease
from devices.database import MeasurementDatabase
from devices.discovery import open_device
from devices.farm.board import Board
from devices.farm.job import DeviceReport, Job, Opener, Tell
from devices.farm.keeper import Keeper
from devices.farm.limits import Limits
from devices.farm.messages import Assignment

LOOK_S = 0.1
BEATS = 8  # in the time after which silence means the end


class ProcessFarm:
    """Devices of this host, each with a worker process that holds its lease (`devices.farm.job.Farm`)."""

    def __init__(
        self,
        devices: Sequence[str],
        database: str | Path,
        *,
        opener: Opener = open_device,
        cache: Path | None = None,
        limits: Limits | None = None,
        wait_s: float | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        """Reach the devices; those that cannot be reached are out, with the reason in `devices()`.

        `opener` is a function of a module, by which a worker opens its device. Raises UsageError for a
        database that lives in memory, DeviceError where no device is left.
        """
        if str(database) in ("sqlite://", "sqlite:///:memory:"):
            raise UsageError("a farm's workers cannot share a database in memory: give a file or a server")
        limits = limits or Limits()
        self._database = MeasurementDatabase(database)
        self._board = Board(limits.tries)
        self._stop = threading.Event()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._futures: set[Future[Measurement]] = set()
        beat_s = limits.silence_s / BEATS
        shared = (str(database), cache, lease.default_folder(), wait_s, beat_s, tuple(sys.argv))
        self._keepers = [
            Keeper(
                Assignment(device, opener, *shared),
                self._board,
                self._database,
                limits,
                self._stop,
                self._lines.put,
            )
            for device in devices
        ]
        try:
            self._reach(tell)
        except BaseException:
            self.close()
            raise

    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """Return the specs of the devices that work, by the digest of their fingerprint."""
        return self._board.kinds()

    def submit(self, job: Job) -> Future[Measurement]:
        """Queue a job, or find it there already; its future holds the measurement or what went wrong."""
        future = self._board.add(job)
        self._futures.add(future)
        return future

    def drain(self, tell: Tell = lambda _: None) -> None:
        """Wait until all jobs are done or have failed; `tell` is called meanwhile, in this thread."""
        while self._futures:
            self._futures = wait(self._futures, LOOK_S).not_done
            self._pass_on(tell)

    def devices(self) -> tuple[DeviceReport, ...]:
        """Return what became of each device."""
        return tuple(keeper.report for keeper in self._keepers)

    def close(self) -> None:
        """End all workers and their runners; finished rounds stay in the database. Safe to call twice."""
        self._stop.set()
        self._board.close()
        for keeper in self._keepers:
            keeper.accepted.set()
            with suppress(RuntimeError):  # it was never started
                keeper.join()
        self._database.close()

    def __enter__(self) -> ProcessFarm:
        """Return the farm itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _reach(self, tell: Tell) -> None:
        """Start the workers, and take each device once by whatever ways it is given."""
        for keeper in self._keepers:
            keeper.start()
        found: dict[str, str] = {}
        for keeper in self._keepers:
            while not keeper.known.wait(LOOK_S):
                self._pass_on(tell)
            if keeper.opened is None:
                continue
            spec = keeper.report.device
            if first := keeper.opened.identity and found.get(keeper.opened.identity):
                keeper.reject(f"it is the device {first!r}, by another way")
                continue
            found[keeper.opened.identity] = spec
            self._board.enter(spec, keeper.opened.kind)
            keeper.accepted.set()
        self._pass_on(tell)
        if not self.kinds():
            reasons = "; ".join(f"{one.device}: {one.reason}" for one in self.devices())
            raise DeviceError(f"no device of the farm can be used: {reasons or 'none was given'}")

    def _pass_on(self, tell: Tell) -> None:
        with suppress(queue.Empty):
            while True:
                tell(self._lines.get_nowait())
