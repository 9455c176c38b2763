"""What both ways to an adb daemon give: a byte stream to a service, and who gives it."""

from __future__ import annotations

import time
from typing import Protocol


class Stream(Protocol):
    """An open service of the daemon. Each method raises DeviceError when the phone is lost."""

    def send(self, data: bytes | memoryview, timeout_s: float) -> None:
        """Write all of `data`; BrokenPipeError when the service ended, TimeoutError when it is stuck."""
        ...

    def receive(self, timeout_s: float) -> bytes:
        """Return what came, b"" when the service ended; TimeoutError when nothing came."""
        ...

    def close(self) -> None:
        """Close it; safe to call twice."""
        ...


class Bridge(Protocol):
    """A way to one phone."""

    name: str

    def open(self, service: str, timeout_s: float = ...) -> Stream:
        """Open a service such as `sync:`; DeviceError saying why where there is none."""
        ...

    def close(self) -> None:
        """Let go of the phone."""
        ...


class Reader:
    """Exact reads from a stream."""

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        """Read from `stream`, each exact read within `timeout_s`."""
        self._stream = stream
        self._timeout_s = timeout_s
        self._buffer = bytearray()

    def exact(self, count: int) -> bytes:
        """Return `count` bytes; EOFError when the stream ends first, TimeoutError when they do not come."""
        deadline = time.monotonic() + self._timeout_s
        while len(self._buffer) < count:
            chunk = self._stream.receive(max(0.0, deadline - time.monotonic()))
            if not chunk:
                raise EOFError(f"the stream ended with {len(self._buffer)} of {count} bytes")
            self._buffer += chunk
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data
