"""The jobs of a farm that wait, and who may take them. Shared by the threads of all devices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from compiler.errors import DeviceError
from compiler.records import Measurement
from devices.farm.job import Job
from devices.farm.messages import Task


@dataclass(eq=False)
class Entry:
    """A job on the board, with the tries it has had."""

    job: Job
    task: Task
    future: Future[Measurement] = field(default_factory=Future)
    tries: list[tuple[str, str]] = field(default_factory=list)

    def history(self) -> str:
        """Say what the tries came to."""
        return "; ".join(f"on {device}: {reason}" for device, reason in self.tries)


class Board:
    """Waiting jobs, and the devices that work."""

    def __init__(self, tries: int) -> None:
        """Begin with no job and no device; a job gets so many tries."""
        self._tries = tries
        self._changed = threading.Condition()
        self._waiting: list[Entry] = []
        self._taken: list[Entry] = []
        self._working: dict[str, str] = {}
        self._out: dict[str, str] = {}
        self._closed = False

    def add(self, job: Job) -> Future[Measurement]:
        """Put a job on the board, or find it there."""
        with self._changed:
            for entry in (*self._waiting, *self._taken):
                if entry.job.key == job.key:
                    return entry.future
            entry = Entry(job, Task(job, time.time_ns()))
            self._waiting.append(entry)
            self._sweep()
            self._changed.notify_all()
            return entry.future

    def enter(self, device: str, kind: str) -> None:
        """Let a device take jobs."""
        with self._changed:
            self._working[device] = kind

    def leave(self, device: str, reason: str) -> None:
        """Give a device no more jobs; those that no other device can do fail with the reasons."""
        with self._changed:
            self._working.pop(device, None)
            self._out[device] = reason
            self._sweep()
            self._changed.notify_all()

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """Return the devices that work by kind."""
        with self._changed:
            kinds = sorted(set(self._working.values()))
            return {k: tuple(d for d, its in self._working.items() if its == k) for k in kinds}

    def take(self, device: str) -> Entry | None:
        """Wait for a job that a device may do; None when there will be none."""
        with self._changed:
            while not self._closed:
                for entry in self._waiting:
                    if self._suits(entry, device) and self._claim(entry):
                        return entry
                self._changed.wait()
            return None

    def done(self, entry: Entry, measurement: Measurement) -> None:
        """Give a job's future its result."""
        self._settle(entry, lambda future: future.set_result(measurement))

    def fail(self, entry: Entry, error: Exception) -> None:
        """Give a job's future what went wrong."""
        self._settle(entry, lambda future: future.set_exception(error))

    def again(self, entry: Entry, device: str, reason: str) -> None:
        """Put a job back after a try that came to nothing; it fails after the last."""
        entry.tries.append((device, reason))
        if len(entry.tries) >= self._tries:
            self.fail(entry, DeviceError(f"{entry.job.candidate.label!r} failed {entry.history()}"))
            return
        with self._changed:
            self._taken.remove(entry)
            self._waiting.insert(0, entry)
            self._sweep()
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody take a job any more, and cancel those that wait."""
        with self._changed:
            self._closed = True
            for entry in self._waiting:
                # A future that was running once cannot be cancelled.
                if not entry.future.cancel():
                    entry.future.set_exception(DeviceError("the farm was closed"))
            self._waiting.clear()
            self._changed.notify_all()

    def _suits(self, entry: Entry, device: str) -> bool:
        able = self._able(entry)
        if device not in able:
            return False
        # Where it failed is not where it is tried next, as long as there is another place.
        failed = [place for place, _ in entry.tries]
        return not failed or device != failed[-1] or len(able) == 1

    def _able(self, entry: Entry) -> list[str]:
        kind = entry.job.kind
        return [device for device, its in self._working.items() if kind in ("", its)]

    def _claim(self, entry: Entry) -> bool:
        self._waiting.remove(entry)
        if not entry.tries and not entry.future.set_running_or_notify_cancel():
            return False
        self._taken.append(entry)
        return True

    def _settle(self, entry: Entry, give: Callable[[Future[Measurement]], None]) -> None:
        with self._changed:
            self._taken.remove(entry)
        give(entry.future)

    def _sweep(self) -> None:
        for entry in [e for e in self._waiting if not self._able(e)]:
            self._waiting.remove(entry)
            lost = "; ".join(f"{device}: {reason}" for device, reason in self._out.items())
            tried = f" It failed {entry.history()}." if entry.tries else ""
            text = f"no device of its kind is left for {entry.job.candidate.label!r} ({lost}).{tried}"
            if entry.tries or entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(DeviceError(text))
