"""A worker as the farm sees it: a process that takes tasks, answers, falls silent, or dies."""

from __future__ import annotations

import math
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import NoReturn

from devices.farm.messages import Assignment, Beat, Message, Take, Task
from devices.farm.processes import GRACE_S, end
from devices.lease import Tell

# The worker finds what we find, whatever stands in its working folder.
START = "import sys; fd, *sys.path = sys.argv[1:]; from devices.farm.worker import main; main(int(fd))"
POLL_S = 0.2
TAIL_BYTES = 2000


class LostWorkerError(Exception):
    """The worker died, fell silent or took too long; its process is gone now."""

    def __init__(self, text: str, silent: bool = False) -> None:
        """Say what happened; `silent` where it still ran and gave no sign of life."""
        super().__init__(text)
        self.silent = silent


class StoppedError(Exception):
    """The farm is being closed."""


class WorkerProcess:
    """One running worker."""

    def __init__(self, given: Assignment, stop: threading.Event, tell: Tell) -> None:
        """Start the process; `stop` ends all waiting for it."""
        self._stop, self._tell = stop, tell
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (`close` closes it)
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(number), *map(str, sys.path)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                start_new_session=True,  # Ctrl-C reaches the farm alone, and it ends its workers in order
            )
        self.send(given)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def send(self, message: Assignment | Take | Task) -> None:
        """Give the worker something to do; one that died is noticed by the next `receive`."""
        with suppress(OSError):
            self._connection.send(message)

    def receive(self, seconds: float, silence_s: float = math.inf) -> Message:
        """Return what the worker answers within so many seconds, and tell its progress meanwhile.

        Raises LostWorkerError, after `silence_s` without a sign of life too, and StoppedError where the
        farm is being closed.
        """
        deadline, heard = time.monotonic() + seconds, time.monotonic()
        while True:
            if self._stop.is_set():
                raise StoppedError
            if self._connection.poll(POLL_S):
                message = self._next()
                if not isinstance(message, Beat):
                    return message
                heard = time.monotonic()
                if message.text:
                    self._tell(message.text)
            now = time.monotonic()
            if now > deadline:
                self._lose(f"did not finish within {seconds:g} s and was ended")
            if now - heard > silence_s:
                self._lose(f"gave no sign of life for {silence_s:g} s and was ended", silent=True)

    def close(self, grace_s: float = GRACE_S) -> None:
        """End the process; safe to call twice."""
        self._connection.close()
        end(self._process, grace_s)
        self._words.close()

    def _next(self) -> Message:
        try:
            message: Message = self._connection.recv()
            return message
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            code = self._process.poll()
            self._lose(
                f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
            )

    def _lose(self, what: str, silent: bool = False) -> NoReturn:
        end(self._process)
        text = f"its worker (pid {self.pid}) {what}{self._last_words()}"
        self.close()
        raise LostWorkerError(text, silent)

    def _last_words(self) -> str:
        self._words.seek(0, 2)
        self._words.seek(max(0, self._words.tell() - TAIL_BYTES))
        words = self._words.read().decode(errors="replace").strip()
        return f"\nIts last words:\n{words}" if words else ""
