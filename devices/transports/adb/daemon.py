"""The way straight to the phone's daemon: one connection that carries many streams.

A thread reads packets and hands them to their streams; it never writes, so a daemon that does not
read cannot stop us from reading. Per stream and direction one WRTE is under way until its OKAY:
we give the OKAY when the data is taken, so a program that writes faster than we read has to wait.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

from compiler.errors import DeviceError
from devices.transports.adb.packets import CorruptPacket, Packet, Pipe, read_packet, write_packet

OPEN_S = 20.0


class DaemonConnection:
    """A connection on which the daemon has let us in; see `devices.transports.adb.greeting`."""

    def __init__(self, pipe: Pipe, name: str, max_payload: int, features: frozenset[str]) -> None:
        """Take over a pipe after the greeting."""
        self.name = name
        self.features = features
        self.max_payload = max_payload
        self._pipe = pipe
        self._sending = threading.Lock()
        self.changed = threading.Condition()
        self._streams: dict[int, DaemonStream] = {}
        self._ids = itertools.count(1)
        self.lost: str | None = None
        threading.Thread(target=self._read, name=f"{name} reader", daemon=True).start()

    def open(self, service: str, timeout_s: float = OPEN_S) -> DaemonStream:
        """Open a service; DeviceError when the daemon refuses it."""
        with self.changed:
            stream = DaemonStream(self, next(self._ids))
            self._streams[stream.local_id] = stream
        data = service.encode(errors="surrogateescape") + b"\0"
        self.write(Packet(b"OPEN", stream.local_id, 0, data))
        try:
            self.wait(lambda: stream.open or stream.ended, timeout_s)
        except TimeoutError as error:
            stream.close()
            raise DeviceError(f"{self.name} did not open {_named(service)} within {timeout_s:g} s") from error
        if not stream.open:
            raise DeviceError(f"{self.name} refuses the service {_named(service)}")
        return stream

    def write(self, packet: Packet) -> None:
        """Send a packet; DeviceError when the connection is lost."""
        self.check()
        try:
            with self._sending:
                write_packet(self._pipe, packet)
        except OSError as error:
            self._fail(str(error.strerror or error))
            self.check()

    def check(self) -> None:
        """Raise DeviceError when the connection is lost."""
        if self.lost is not None:
            raise DeviceError(f"{self.name} was lost: {self.lost}")

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Block until a condition on the streams holds; TimeoutError, or DeviceError when lost first."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                self.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self.changed.wait(left)

    def forget(self, stream: DaemonStream) -> None:
        """Take no more packets for a stream."""
        with self.changed:
            self._streams.pop(stream.local_id, None)

    def close(self) -> None:
        """End the connection and its streams."""
        self._fail("it was closed")

    def _read(self) -> None:
        try:
            while self.lost is None:
                self._dispatch(read_packet(self._pipe))
        except (OSError, EOFError, CorruptPacket) as error:
            self._fail(str(error) or type(error).__name__)

    def _dispatch(self, packet: Packet) -> None:
        with self.changed:
            stream = self._streams.get(packet.arg1)
            if packet.command == b"CNXN":
                raise CorruptPacket("the daemon greeted again, so it has started anew")
            if stream is not None:
                stream.take(packet)
                self.changed.notify_all()

    def _fail(self, reason: str) -> None:
        with self.changed:
            if self.lost is None:
                self.lost = reason
            self.changed.notify_all()
        self._pipe.close()


def _named(service: str) -> str:
    # A script is not quoted: it begins with our own check, which says nothing.
    return "a command" if service.startswith("shell,") else repr(service[:60])


class DaemonStream:
    """One service on the connection."""

    def __init__(self, connection: DaemonConnection, local_id: int) -> None:
        """Make the stream that the daemon is about to open."""
        self.local_id = local_id
        self.open = False
        self.ended = False
        self._connection = connection
        self._remote_id = 0
        self._clear = False
        self._closed = False
        self._received: deque[bytes | bytearray | memoryview] = deque()

    def take(self, packet: Packet) -> None:
        """Take a packet in; the connection calls this with its lock held."""
        if packet.command == b"OKAY":
            self.open, self._remote_id, self._clear = True, packet.arg0, True
        elif packet.command == b"WRTE":
            self._received.append(packet.payload)
        elif packet.command == b"CLSE":
            self.ended = True

    def send(self, data: bytes | memoryview, timeout_s: float) -> None:
        """Write `data` in packets, each after the OKAY for the one before."""
        view, most = memoryview(data), self._connection.max_payload
        deadline = time.monotonic() + timeout_s
        for start in range(0, len(view), most):
            self._connection.wait(lambda: self._clear or self.ended, deadline - time.monotonic())
            if self.ended:
                raise BrokenPipeError
            self._clear = False
            part = view[start : start + most]
            self._connection.write(Packet(b"WRTE", self.local_id, self._remote_id, part))

    def receive(self, timeout_s: float) -> bytes:
        """Return the payload of the next packet."""
        # What came before the connection was lost is still good.
        self._connection.wait(lambda: bool(self._received) or self.ended, timeout_s)
        if not self._received:
            return b""
        data = self._received.popleft()
        if not self.ended:
            self._connection.write(Packet(b"OKAY", self.local_id, self._remote_id))
        return bytes(data)

    def close(self) -> None:
        """Tell the daemon that we are done with it."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.ended:
                self._connection.write(Packet(b"CLSE", self.local_id, self._remote_id))
        except DeviceError:
            pass  # a lost connection has closed it already
        self._connection.forget(self)
