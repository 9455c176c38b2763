"""The shell of a phone over either way: the service `shell,v2,raw:`, and files by `sync:`.

Shell v2 carries stdin, stdout, stderr and the exit code in one stream of packets: one byte that says
which, four of length, and the data.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from typing import IO

from compiler.errors import DeviceError
from devices.channel import STDERR_BYTES, Channel
from devices.transports.adb.stream import Bridge, Stream
from devices.transports.adb.sync import receive_file, send_file

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
HEAD = struct.Struct("<BI")
PART = 16 * 1024
SEND_S = 60.0
BLOCK = 15 * 64 * 1024  # with the headers of the file service in it, a block fits one packet


class AdbShell:
    """Scripts and files on one phone."""

    block = BLOCK

    def __init__(self, bridge: Bridge) -> None:
        """Use the phone behind a bridge."""
        self.name = bridge.name
        self._bridge = bridge

    def open(self, script: str) -> Channel:
        """Start a script with the phone's sh."""
        return ShellChannel(self._bridge.open(f"shell,v2,raw:{script}"), self.name)

    def send(self, blocks: Iterable[bytes], remote: str, mode: int) -> None:
        """Write a file."""
        send_file(self._bridge, blocks, remote, mode)

    def receive(self, remote: str, sink: IO[bytes]) -> None:
        """Read a file."""
        receive_file(self._bridge, remote, sink)

    def close(self) -> None:
        """Let go of the phone."""
        self._bridge.close()


class ShellChannel:
    """One running script."""

    def __init__(self, stream: Stream, name: str) -> None:
        """Take over the stream of an opened shell service."""
        self._stream = stream
        self._name = name
        self._buffer = bytearray()
        self._output = bytearray()
        self._stderr = bytearray()
        self._exit: int | None = None

    def send(self, data: bytes) -> None:
        """Write to stdin."""
        for start in range(0, len(data), PART):
            self._write(STDIN, data[start : start + PART])

    def end_input(self) -> None:
        """Close stdin, unless the script has ended."""
        try:
            self._write(CLOSE_STDIN, b"")
        except BrokenPipeError:
            return

    def receive(self, timeout_s: float) -> bytes:
        """Return stdout as it comes."""
        deadline = time.monotonic() + timeout_s
        while not self._output and self._exit is None:
            self._pump(deadline)
        data = bytes(self._output)
        self._output.clear()
        return data

    def wait(self, timeout_s: float) -> int:
        """Return the exit code; what stdout says meanwhile is kept for `receive`."""
        deadline = time.monotonic() + timeout_s
        while self._exit is None:
            self._pump(deadline)
        return self._exit

    def last_words(self) -> bytes:
        """Return the end of stderr."""
        return bytes(self._stderr)

    def close(self) -> None:
        """Close the stream: the daemon hangs up on the script."""
        self._stream.close()

    def _write(self, kind: int, data: bytes) -> None:
        try:
            self._stream.send(HEAD.pack(kind, len(data)) + data, SEND_S)
        except TimeoutError as error:
            raise DeviceError(f"{self._name} took no input for {SEND_S:g} s") from error

    def _pump(self, deadline: float) -> None:
        """Take one more piece of the stream in."""
        chunk = self._stream.receive(max(0.0, deadline - time.monotonic()))
        if not chunk:
            raise DeviceError(f"{self._name} was lost: the connection ended while a command ran")
        self._buffer += chunk
        while len(self._buffer) >= HEAD.size:
            kind, length = HEAD.unpack_from(self._buffer)
            if len(self._buffer) < HEAD.size + length:
                break
            self._take(kind, bytes(memoryview(self._buffer)[HEAD.size : HEAD.size + length]))
            del self._buffer[: HEAD.size + length]

    def _take(self, kind: int, data: bytes) -> None:
        if kind == STDOUT:
            self._output += data
        elif kind == STDERR:
            self._stderr += data
            del self._stderr[:-STDERR_BYTES]
        elif kind == EXIT and len(data) == 1:
            self._exit = data[0]
        else:
            raise DeviceError(
                f"{self._name} breaks the shell protocol: it says {kind} with {len(data)} bytes"
            )
