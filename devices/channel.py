"""A running process by its byte streams: what a session needs of any transport.

`ProcessChannel` is the one of a local process. Its stderr goes to an unnamed temporary file, so that
it never blocks and its last lines can explain a death.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Protocol

STDERR_BYTES = 1 << 20
READ_BYTES = 1 << 16

Spawn = Callable[[IO[bytes]], "subprocess.Popen[bytes]"]


class Channel(Protocol):
    """The stdin, stdout, stderr and end of one process; not for use from two threads.

    Each method raises DeviceError when the device itself is lost.
    """

    def send(self, data: bytes) -> None:
        """Write to the process's stdin; BrokenPipeError when it takes no more."""
        ...

    def end_input(self) -> None:
        """Close the process's stdin."""
        ...

    def receive(self, timeout_s: float) -> bytes:
        """Return the next bytes of stdout, b"" at its end; TimeoutError when none came in time."""
        ...

    def wait(self, timeout_s: float) -> int:
        """Return the exit code, negative or above 128 for a signal; TimeoutError while it runs."""
        ...

    def last_words(self) -> bytes:
        """Return the last `STDERR_BYTES` of what came on stderr so far, also after `close`."""
        ...

    def close(self) -> None:
        """Kill what is left of the process and its children; safe to call twice."""
        ...


class ProcessChannel:
    """A local process, started in a group of its own."""

    def __init__(self, spawn: Spawn) -> None:
        """Start a process; `spawn` gives it pipes, and the file it is handed as stderr."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        self._words: bytes | None = None
        try:
            self.process = spawn(self._stderr)
        except BaseException:
            self._stderr.close()
            raise

    def send(self, data: bytes) -> None:
        """Write to stdin and flush."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end_input(self) -> None:
        """Close stdin, whether or not the process is still there."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def receive(self, timeout_s: float) -> bytes:
        """Read what stdout has."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, timeout_s)):
                raise TimeoutError
        return os.read(self.process.stdout.fileno(), READ_BYTES)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error

    def last_words(self) -> bytes:
        """Read the end of the file that is stderr."""
        if self._words is not None:
            return self._words
        # pread: the child shares the file's position, which must not move under it.
        number = self._stderr.fileno()
        return os.pread(number, STDERR_BYTES, max(0, os.fstat(number).st_size - STDERR_BYTES))

    def close(self) -> None:
        """Kill the group, reap the process and free its streams."""
        if self._words is not None:
            return
        kill_group(self.process)
        self.end_input()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._words = self.last_words()
        self._stderr.close()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process started in its own group, with its children, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_to_end(channel: Channel, timeout_s: float) -> tuple[int, bytes]:
    """Return the exit code and the whole stdout of a process that gets no input.

    The channel stays open; TimeoutError when the process has not ended in time.
    """
    deadline = time.monotonic() + timeout_s
    channel.end_input()
    parts = []
    while part := channel.receive(max(0.0, deadline - time.monotonic())):
        parts.append(part)
    return channel.wait(max(0.0, deadline - time.monotonic())), b"".join(parts)
