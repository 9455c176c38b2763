"""A runner process that answers one JSON line for each JSON line it is sent.

The protocol is in `devices/runner_protocol.md`; where the process runs is the channel's business.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from compiler.errors import DeviceError
from devices.channel import Channel
from devices.line_check import take_check

READY_TIMEOUT_S = 600.0
EXIT_GRACE_S = 2.0
TAIL_LINES = 12
TAIL_BYTES = 8192


def start_session(
    channel: Channel, what: str, timeout_s: float = READY_TIMEOUT_S, checked: bool = False
) -> LineSession:
    """Return the session of a started runner once it has said that it is ready.

    `what` names the runner in messages; `checked` is for a channel that leaves this machine, and takes
    no answer without a check that fits. Raises DeviceError with the last lines of stderr when the
    runner does not come up.
    """
    session = LineSession(channel, what, checked)
    try:
        session.wait_ready(timeout_s)
    except BaseException:
        session.close()
        raise
    return session


class LineSession:
    """A running runner; not for use from two threads."""

    def __init__(self, channel: Channel, what: str, checked: bool = False) -> None:
        """Take over the channel of a started process; use `start_session`."""
        self.channel = channel
        self.ready: dict[str, object] = {}
        self._what = what
        self._checked = checked
        self._asked = b""
        self._requests = 0
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
        self._requests += 1
        check = {"check": self._requests} if self._checked else {}
        self._asked = json.dumps({**message, **check}).encode()
        try:
            self.channel.send(self._asked + b"\n")
        except BrokenPipeError:
            self._died()
        except DeviceError:
            self._abandon()
            raise
        return self._answer(timeout_s)

    def close(self) -> None:
        """Ask the runner to end, kill it if it does not, and free what it held; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            # It may be gone already, or the device with it: that is what we want.
            with suppress(OSError, DeviceError):
                self.channel.send(b'{"do": "exit"}\n')
                self.channel.end_input()
                self.channel.wait(EXIT_GRACE_S)
        finally:
            self.channel.close()

    def _answer(self, timeout_s: float) -> dict[str, object]:
        line = self._read_line(timeout_s)
        try:
            message: Any = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._fail(f"{self._what} wrote a line that is not a JSON object: {line[:200]!r}")
        if self._checked and take_check(self._asked, line) is None:
            self._refuse(message)
        message.pop("crc32", None)
        if "error" in message:
            raise DeviceError(f"{self._what} reports: {message['error']}{self._tail()}")
        return dict(message)

    def _refuse(self, message: Mapping[str, object]) -> NoReturn:
        if "error" in message:  # said of a request that came too damaged to ask for a check
            self._fail(f"{self._what} reports: {message['error']}")
        if "crc32" not in message:
            self._fail(f"{self._what} gave an answer without a check: on this device each needs its `crc32`")
        self._fail(
            f"an answer of {self._what} was damaged, lost or repeated on the way, and was not used; "
            "look at the cable or the network, then run again"
        )

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        parts = [self._pending]
        while b"\n" not in parts[-1]:
            try:
                chunk = self.channel.receive(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                self._fail(f"{self._what} did not answer within {timeout_s:g} s and was ended")
            except DeviceError:
                self._abandon()
                raise
            if not chunk:
                self._died()
            parts.append(chunk)
        line, _, self._pending = b"".join(parts).partition(b"\n")
        return line

    def _died(self) -> NoReturn:
        try:
            how = _describe(self.channel.wait(EXIT_GRACE_S))
        except TimeoutError:
            how = "closed its output but did not end"
        except DeviceError:
            self._abandon()
            raise
        self._fail(f"{self._what} {how}")

    def _fail(self, message: str) -> NoReturn:
        self._abandon()
        raise DeviceError(message + self._tail())

    def _abandon(self) -> None:
        self._closed = True
        self.channel.close()

    def _tail(self) -> str:
        lines = self.channel.last_words()[-TAIL_BYTES:].decode(errors="replace").splitlines()
        shown = [line for line in lines if line.strip()][-TAIL_LINES:]
        return "\nIts last words:\n  " + "\n  ".join(shown) if shown else ""


def _describe(code: int) -> str:
    # A shell says 128 + n of a process that signal n killed; a program may end with that code itself.
    if code < 0:
        return f"was killed by {_signal_name(-code)}"
    return f"ended with exit code {code}" + (f", as after {_signal_name(code - 128)}" if code > 128 else "")


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
