"""A runner process that answers one JSON line for each JSON line it is sent.

Any transport that ends in a local process with pipes can use it (a local runner, `adb shell`,
`ssh`). The protocol is in `devices/runner_protocol.md`. What the runner says on stderr goes to an
unnamed temporary file, so that it never blocks and its last lines can explain a death.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, NoReturn

from compiler.errors import DeviceError

READY_TIMEOUT_S = 600.0
EXIT_GRACE_S = 2.0
TAIL_LINES = 12
TAIL_BYTES = 8192

Spawn = Callable[[IO[bytes]], "subprocess.Popen[bytes]"]


def start_session(spawn: Spawn, what: str, timeout_s: float = READY_TIMEOUT_S) -> LineSession:
    """Start a runner and return its session once it has said that it is ready.

    `spawn` starts the process with pipes for stdin and stdout, in its own process group, and with
    the file it is given as stderr. `what` names the runner in messages. Raises DeviceError with
    the last lines of stderr when the runner does not come up.
    """
    stderr = tempfile.TemporaryFile()  # noqa: SIM115  (the session closes it)
    try:
        session = LineSession(spawn(stderr), stderr, what)
    except BaseException:
        stderr.close()
        raise
    try:
        session.wait_ready(timeout_s)
    except BaseException:
        session.close()
        raise
    return session


class LineSession:
    """A running runner; not for use from two threads."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes], what: str) -> None:
        """Take over a started process; use `start_session`."""
        self.process = process
        self.ready: dict[str, object] = {}
        self._stderr = stderr
        self._what = what
        self._pending = b""
        self._closed = False

    def wait_ready(self, timeout_s: float) -> None:
        """Wait for the line that says the program is loaded; DeviceError when it does not come."""
        message = self._answer(timeout_s)
        if message.get("event") != "ready":
            self._fail(f"{self._what} said {json.dumps(message)} where its ready line was expected")
        self.ready = message

    def request(self, message: Mapping[str, object], timeout_s: float = 600.0) -> dict[str, object]:
        """Send one request and return its answer.

        Raises DeviceError when the runner died, timed out, or answered `{"error": ...}`; only
        after the last can the session be used again.
        """
        if self._closed:
            raise DeviceError(f"{self._what} was closed before the request {json.dumps(message)}")
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._died()
        return self._answer(timeout_s)

    def close(self) -> None:
        """Ask the runner to end, kill it if it does not, and free what it held; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):  # it may be gone already: that is what we want
            self.process.stdin.write(b'{"do": "exit"}\n')
            self.process.stdin.flush()
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            kill_group(self.process)
            self.process.stdout.close()
            self._stderr.close()

    def _answer(self, timeout_s: float) -> dict[str, object]:
        line = self._read_line(timeout_s)
        try:
            message: Any = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._fail(f"{self._what} wrote a line that is not a JSON object: {line[:200]!r}")
        if "error" in message:
            raise DeviceError(f"{self._what} reports: {message['error']}{self._tail()}")
        return dict(message)

    def _read_line(self, timeout_s: float) -> bytes:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._fail(f"{self._what} did not answer within {timeout_s:g} s and was ended")
                chunk = os.read(self.process.stdout.fileno(), 1 << 16)
                if not chunk:
                    self._died()
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> NoReturn:
        try:
            code = self.process.wait(EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self._fail(f"{self._what} closed its output but did not end")
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        self._fail(f"{self._what} {how}")

    def _fail(self, message: str) -> NoReturn:
        kill_group(self.process)
        text = message + self._tail()
        self.close()
        raise DeviceError(text)

    def _tail(self) -> str:
        # pread: the child shares the file's position, which must not move under it.
        number = self._stderr.fileno()
        start = max(0, os.fstat(number).st_size - TAIL_BYTES)
        lines = os.pread(number, TAIL_BYTES, start).decode(errors="replace").splitlines()
        shown = [line for line in lines if line.strip()][-TAIL_LINES:]
        return "\nIts last words:\n  " + "\n  ".join(shown) if shown else ""


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process started in its own group, with its children, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
