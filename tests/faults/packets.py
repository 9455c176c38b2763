"""ADB's packets, and a link that reads and writes them.

A packet is a header of six little-endian words (command, two arguments, the payload's length, the
sum of its bytes, the command inverted) and the payload. Like adbd, the daemon writes checksums and
checks none: what the link breaks on the way in reaches the services.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

HEADER = struct.Struct("<4sIIIII")
VERSION = 0x01000000  # the one with checksums: 0x01000001 lets both sides leave them out
MAX_PAYLOAD = 1 << 20


class BrokenLink(Exception):
    """The connection ended, or what came over it is no ADB."""


@dataclass(frozen=True)
class Packet:
    """One packet; on a stream `arg0` is the sender's number of it and `arg1` the receiver's."""

    command: bytes
    arg0: int
    arg1: int
    payload: bytes = b""

    def encode(self) -> bytes:
        magic = int.from_bytes(self.command, "little") ^ 0xFFFFFFFF
        size, total = len(self.payload), sum(self.payload) & 0xFFFFFFFF
        return HEADER.pack(self.command, self.arg0, self.arg1, size, total, magic) + self.payload


class Link:
    """A connection that neither loses nor changes anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def receive(self) -> Packet:
        """Return the next packet; BrokenLink when none comes any more."""
        try:
            return await self.read_payload(await self._reader.readexactly(HEADER.size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise BrokenLink("the client is gone") from error

    async def read_payload(self, header: bytes) -> Packet:
        command, arg0, arg1, size, _, magic = HEADER.unpack(header)
        if int.from_bytes(command, "little") ^ 0xFFFFFFFF != magic or size > MAX_PAYLOAD:
            raise BrokenLink(f"not a header: {header.hex()}")
        return Packet(command, arg0, arg1, await self._reader.readexactly(size))

    async def send(self, packet: Packet) -> None:
        async with self._turn:
            await self.write(packet.encode())

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise BrokenLink("the client is gone") from error

    def close(self) -> None:
        self._writer.transport.abort()
