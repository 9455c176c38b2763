"""A link that breaks packets, the same ones for the same seed.

Each direction of each connection has a generator of its own, and each packet takes the same number
of draws, so that what happens to packet i depends on the seed and on i alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from tests.faults.packets import HEADER, BrokenLink, Link, Packet

KINDS = {
    "drop": "the packet is lost",
    "delay": "the packet comes late",
    "split": "the packet comes in pieces",
    "duplicate": "the packet comes twice",
    "close": "the connection ends inside the packet",
    "header": "one bit of the header is turned",
    "flip": "one bit of the payload is turned",
    "swap": "two bytes of the payload change places: the checksum still fits",
}
DELAY_S = 0.05
PIECES = 6


@dataclass(frozen=True)
class Faults:
    """What may happen to a packet, by kind, and from which packet of a direction on."""

    chances: Mapping[str, float]
    seed: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.chances) - set(KINDS):
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(KINDS)}")


@dataclass(frozen=True)
class Fault:
    """The fault of one packet ("" for none) and the draws that say where it strikes."""

    kind: str
    where: float
    other: float


class Draws:
    """The faults of one direction of one connection, packet by packet."""

    def __init__(self, faults: Faults, name: str) -> None:
        self._faults = faults
        self._random = Random(f"{faults.seed}/{name}")
        self._packets = 0

    def next(self) -> Fault:
        at, where, other = (self._random.random() for _ in range(3))
        self._packets += 1
        if self._packets <= self._faults.after:
            return Fault("", where, other)
        for kind, chance in sorted(self._faults.chances.items()):
            if at < chance:
                return Fault(kind, where, other)
            at -= chance
        return Fault("", where, other)


class FaultyLink(Link):
    """A link that does to packets what the seed says; `struck` counts it by kind."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        faults: Faults,
        name: str,
        struck: dict[str, int],
    ) -> None:
        super().__init__(reader, writer)
        self._in = Draws(faults, f"{name}/in")
        self._out = Draws(faults, f"{name}/out")
        self._again: Packet | None = None
        self._struck = struck

    def _count(self, fault: Fault) -> str:
        if fault.kind:
            self._struck[fault.kind] = self._struck.get(fault.kind, 0) + 1
        return fault.kind

    async def receive(self) -> Packet:
        if self._again is not None:
            packet, self._again = self._again, None
            return packet
        try:
            header = await self._reader.readexactly(HEADER.size)
            fault = self._in.next()
            kind = self._count(fault)
            if kind == "header":
                header = turn_bit(header, fault)
            packet = await self.read_payload(header)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise BrokenLink("the client is gone") from error
        if kind == "drop":
            return await self.receive()
        if kind == "close":
            self.close()
            raise BrokenLink("closed on purpose")
        if kind == "delay":
            await asyncio.sleep(fault.where * DELAY_S)
        if kind == "duplicate":
            self._again = packet
        return Packet(packet.command, packet.arg0, packet.arg1, damage(packet.payload, fault))

    async def send(self, packet: Packet) -> None:
        async with self._turn:
            fault = self._out.next()
            kind = self._count(fault)
            data = packet.encode()
            header, payload = data[: HEADER.size], damage(packet.payload, fault)
            data = (turn_bit(header, fault) if kind == "header" else header) + payload
            if kind == "close":
                await self.write(data[: int(fault.where * len(data))])
                self.close()
            elif kind == "split":
                await self._write_pieces(data, fault)
            elif kind != "drop":
                await asyncio.sleep(fault.where * DELAY_S if kind == "delay" else 0)
                await self.write(data * 2 if kind == "duplicate" else data)

    async def _write_pieces(self, data: bytes, fault: Fault) -> None:
        random = Random(fault.where)
        cuts = sorted(random.randrange(len(data) + 1) for _ in range(PIECES))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            await self.write(data[start:end])
            await asyncio.sleep(0.002)


def damage(payload: bytes, fault: Fault) -> bytes:
    """Return the payload as the fault leaves it."""
    if not payload:
        return payload
    if fault.kind == "flip":
        return turn_bit(payload, fault)
    if fault.kind == "swap":
        one, two = int(fault.where * len(payload)), int(fault.other * len(payload))
        changed = bytearray(payload)
        changed[one], changed[two] = changed[two], changed[one]
        return bytes(changed)
    return payload


def turn_bit(data: bytes, fault: Fault) -> bytes:
    changed = bytearray(data)
    changed[int(fault.where * len(data))] ^= 1 << int(fault.other * 8)
    return bytes(changed)
