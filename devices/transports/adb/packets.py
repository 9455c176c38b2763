"""The packets of the adb protocol, and a pipe that carries them.

A packet is a header of six little-endian words, command, two arguments, payload length, sum of the
payload's bytes, command inverted, and then the payload. We announce version 0x01000000, in which
the sums are checked on both sides: a corrupted packet is noticed, not believed.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

VERSION = 0x01000000
MAX_PAYLOAD = 1 << 20
HEADER = struct.Struct("<4s4I4s")
COMMANDS = (b"CNXN", b"AUTH", b"STLS", b"OPEN", b"OKAY", b"WRTE", b"CLSE")


class CorruptPacket(Exception):
    """What came is not the adb protocol, or was damaged on the way."""


@dataclass(frozen=True)
class Packet:
    """One message; what `arg0` and `arg1` mean is the command's business."""

    command: bytes
    arg0: int
    arg1: int
    payload: bytes | bytearray | memoryview = b""


class Pipe(Protocol):
    """Carries bytes to a daemon and back; OSError or EOFError when it is gone."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, in one transfer where that matters."""
        ...

    def read(self, count: int) -> bytearray:
        """Block until `count` bytes came."""
        ...

    def close(self) -> None:
        """End it, so that a blocked read returns."""
        ...


def write_packet(pipe: Pipe, packet: Packet) -> None:
    """Send a packet: header and payload in transfers of their own, as USB wants them."""
    command = packet.command
    pipe.write(
        HEADER.pack(
            command,
            packet.arg0,
            packet.arg1,
            len(packet.payload),
            checksum(packet.payload),
            bytes(b ^ 0xFF for b in command),
        )
    )
    if len(packet.payload):
        pipe.write(packet.payload)


def read_packet(pipe: Pipe) -> Packet:
    """Return the next packet; CorruptPacket where it is none."""
    command, arg0, arg1, length, total, magic = HEADER.unpack(pipe.read(HEADER.size))
    if magic != bytes(b ^ 0xFF for b in command) or command not in COMMANDS:
        raise CorruptPacket(f"a packet begins with {command!r}")
    if length > MAX_PAYLOAD:
        raise CorruptPacket(f"a packet says it holds {length} bytes")
    payload = pipe.read(length) if length else bytearray()
    if total != checksum(payload):
        raise CorruptPacket(f"a {command.decode()} packet of {length} bytes has a wrong checksum")
    return Packet(command, arg0, arg1, payload)


def checksum(payload: bytes | bytearray | memoryview) -> int:
    """Return the sum of the payload's bytes."""
    return int(np.frombuffer(payload, np.uint8).sum(dtype=np.uint32)) if len(payload) else 0


class TcpPipe:
    """A TCP connection to a daemon."""

    SEND_S = 30.0

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        """Connect; OSError where nothing answers."""
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(self.SEND_S)
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; a daemon that takes nothing for half a minute is gone."""
        self._socket.sendall(data)

    def read(self, count: int) -> bytearray:
        """Block until `count` bytes came; waiting between packets has no limit."""
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            try:
                got = self._socket.recv_into(view[done:])
            except TimeoutError:
                if self._closed:
                    raise
                continue
            if not got:
                raise EOFError("the connection was closed")
            done += got
        return data

    def close(self) -> None:
        """Shut the connection down and close it."""
        self._closed = True
        with suppress(OSError):  # the other side may have gone first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
