"""The exclusive right to measure on a device: two measurements at once would read each other.

A lease belongs to the device itself, not to the text that named it: a phone reached by two ways is one
phone. It excludes

- other processes of the user on this host, by a lock on a file that the system releases when its
  holder ends, however it ends;
- where the measurement database is a server, everybody who measures into it, from any host, by a lock
  that the server releases when its holder's connection breaks (`devices/postgresql.py`);
- other threads of this process. Within a thread leases nest: a search that holds one measures under it.

Who waits is told who holds the device, and since when.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from compiler.device import Device
from compiler.errors import DeviceError
from devices.database import MeasurementDatabase, fingerprint_digest
from devices.discovery import default_cache

POLL_S = (0.1, 2.0)  # between looks at a device in use, at first and in the end
REMIND_S = 60.0
COMMAND_LENGTH = 100
NUMBER = "getprop ro.serialno 2>/dev/null; cat /etc/machine-id 2>/dev/null; true"

Tell = Callable[[str], None]


@runtime_checkable
class Identified(Protocol):
    """A device that tells itself from others of its kind."""

    def identity(self) -> str:
        """Return what names this very device by whatever way it is reached: a serial number, say.

        "" says that measurements on it do not disturb each other, so that it needs no lease.
        """
        ...


class Lock(Protocol):
    """One way to exclude others."""

    def take(self) -> str:
        """Take the lock and return ""; return who has it where it is taken."""
        ...

    def release(self) -> None:
        """Give the lock back."""
        ...


@dataclass
class _Own:
    """What this process holds of one device."""

    thread: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0

    def leave(self) -> None:
        self.depth -= 1


_guard = threading.Lock()
_owned: dict[str, _Own] = {}


def default_folder() -> Path:
    """Return the private folder where this user's leases are."""
    return default_cache() / "leases"


def identity(device: Device) -> str:
    """Return what names a device by whatever way it is reached.

    It is what the device says itself (`Identified`), or else the serial number of an Android system or
    the machine's id of a Linux system, or else its name with its fingerprint.
    """
    if isinstance(device, Identified):
        return device.identity()
    number = device.run(["sh", "-c", NUMBER]).stdout.split()
    return " ".join(number) or f"{device.name} {fingerprint_digest(device.fingerprint())}"


@contextmanager
def lease(
    device: Device,
    database: MeasurementDatabase | None = None,
    *,
    wait_s: float | None = None,
    progress: Tell = lambda _: None,
    folder: Path | None = None,
) -> Iterator[None]:
    """Hold the right to measure on a device; wait for it as long as it takes, or `wait_s` seconds.

    `database` extends it to all hosts where it is a server. `progress` is told who holds the device.
    Raises DeviceError where it is still in use after `wait_s`, or where leases cannot be kept.
    """
    name = identity(device)
    if not name:
        yield
        return
    with _guard:
        own = _owned.setdefault(name, _Own())
    locks: list[Lock] = [FileLock((folder or default_folder()) / f"{_digest(name)}.lock")]
    if database is not None and (shared := database.lock(name, describe_holder(host=True))):
        locks.append(shared)
    with _wait(own, locks, device.name, wait_s, progress):
        yield


def _wait(own: _Own, locks: Sequence[Lock], device: str, wait_s: float | None, progress: Tell) -> ExitStack:
    start = time.monotonic()
    pause, told = POLL_S[0], ("", -REMIND_S)
    while True:
        taken = _try(own, locks)
        if isinstance(taken, ExitStack):
            return taken
        spent = time.monotonic() - start
        if wait_s is not None and spent >= wait_s:
            raise DeviceError(
                f"the device {device!r} is in use by {taken}; waited {spent:.0f} s. Run again when it is "
                f"free, or wait for longer with --wait SECONDS"
            )
        if taken != told[0] or spent - told[1] >= REMIND_S:
            progress(f"the device {device!r} is in use by {taken}; waiting")
            told = (taken, spent)
        time.sleep(pause if wait_s is None else min(pause, wait_s - spent))
        pause = min(2 * pause, POLL_S[1])


def _try(own: _Own, locks: Sequence[Lock]) -> ExitStack | str:
    """Take all the locks and return what gives them back, or none of them and return who has one."""
    with ExitStack() as stack:
        if not own.thread.acquire(blocking=False):
            return "another thread of this process"
        stack.callback(own.thread.release)
        for lock in locks if own.depth == 0 else ():
            if holder := lock.take():
                return holder
            stack.callback(lock.release)
        own.depth += 1
        stack.callback(own.leave)
        return stack.pop_all()


class FileLock:
    """A lock among the processes of this user on this host; the file says who has it."""

    def __init__(self, path: Path) -> None:
        """Name the file; it stays, for to remove it would let two processes lock two files of one name."""
        self._path = path
        self._file: int | None = None

    def take(self) -> str:
        """Take the lock and return ""; return who has it where it is taken."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeviceError(f"cannot keep a lease in {str(self._path)!r}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Its holder may be about to write who it is.
            holder = os.pread(file, 4096, 0).decode(errors="replace") or "another process"
            os.close(file)
            return holder
        os.ftruncate(file, 0)
        os.pwrite(file, describe_holder().encode(), 0)
        self._file = file
        return ""

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def describe_holder(host: bool = False) -> str:
    """Return what others are told of this process: its number, its command unless they are on other hosts."""
    if host:
        return f"pid {os.getpid()} on {socket.gethostname()}"
    program, *rest = sys.argv or ["python"]
    command = shlex.join([Path(program).name, *rest])
    shown = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", command)  # a database's password
    shown = shown if len(shown) <= COMMAND_LENGTH else f"{shown[: COMMAND_LENGTH - 4]} ..."
    return f"pid {os.getpid()}, `{shown}`, since {time.strftime('%Y-%m-%d %H:%M')}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]
