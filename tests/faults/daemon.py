"""An adb daemon in Python that can break its own link: `python -m tests.faults.daemon`, inside `root.sh`.

It takes one JSON document a line on stdin, `{"seed": 7, "chances": {"drop": 0.01}, "after": 0, "keys": []}`,
for each of which it becomes a new phone: all processes are ended, the storage is emptied, a new
port is listened on and said on stdout. `{"report": true}` answers how often each fault struck, and
`{"calm": true}` gives a second port to the same phone, without faults.
`keys` are lines of `adbkey.pub`; with none, every client is let in.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.injection import Faults, FaultyLink
from tests.faults.packets import MAX_PAYLOAD, VERSION, BrokenLink, Link, Packet
from tests.faults.services import HOME, serve

BANNER = b"device::ro.product.name=faulty;ro.product.model=Faulty Phone;ro.product.device=faulty;features=shell_v2,cmd"
TOKEN, SIGNATURE = 1, 2
SHA1_PREFIX = bytes.fromhex("3021300906052b0e03021a05000414")


class OpenStream:
    """One open stream; at most one of its packets is unacknowledged."""

    def __init__(self, link: Link, number: int, remote: int, limit: int) -> None:
        self.input = asyncio.StreamReader()
        self.acknowledged = asyncio.Event()
        self._link, self._number, self._remote, self._limit = link, number, remote, limit

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), self._limit):
            self.acknowledged.clear()
            await self.say(b"WRTE", data[start : start + self._limit])
            await self.acknowledged.wait()

    async def say(self, command: bytes, payload: bytes = b"") -> None:
        await self._link.send(Packet(command, self._number, self._remote, payload))


class Connection:
    """One client, from its greeting to the end of the link."""

    def __init__(self, link: Link, keys: list[str]) -> None:
        self._link, self._keys = link, keys
        self._token = os.urandom(20)
        self._trusted = not keys
        self._limit = 4096
        self._streams: dict[int, OpenStream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._opened = 0

    async def serve(self) -> None:
        try:
            while True:
                await self._take(await self._link.receive())
        except BrokenLink:
            pass
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._link.close()

    async def _take(self, packet: Packet) -> None:
        if packet.command == b"CNXN":
            self._limit = max(1, min(packet.arg1, MAX_PAYLOAD))
            await self._greet()
        elif packet.command == b"AUTH" and packet.arg0 == SIGNATURE:  # a key to learn waits for the user
            self._trusted = any(signed_by(key, self._token, packet.payload) for key in self._keys)
            await self._greet()
        elif self._trusted and packet.command == b"OPEN":
            await self._open(packet)
        elif stream := self._streams.get(packet.arg1):
            await self._pass_on(stream, packet)

    async def _greet(self) -> None:
        if self._trusted:
            await self._link.send(Packet(b"CNXN", VERSION, MAX_PAYLOAD, BANNER))
        else:
            await self._link.send(Packet(b"AUTH", TOKEN, 0, self._token))

    async def _open(self, packet: Packet) -> None:
        self._opened += 1
        stream = OpenStream(self._link, self._opened, packet.arg0, self._limit)
        service = os.fsdecode(packet.payload.rstrip(b"\0"))
        self._streams[self._opened] = stream
        self._tasks[self._opened] = asyncio.create_task(self._run(self._opened, stream, service))

    async def _run(self, number: int, stream: OpenStream, service: str) -> None:
        with suppress(BrokenLink, asyncio.IncompleteReadError):
            await stream.say(b"OKAY")
            await serve(stream, service)
        self._streams.pop(number, None)
        self._tasks.pop(number, None)
        with suppress(BrokenLink):
            await stream.say(b"CLSE")

    async def _pass_on(self, stream: OpenStream, packet: Packet) -> None:
        if packet.command == b"WRTE":
            stream.input.feed_data(packet.payload)
            await stream.say(b"OKAY")
        elif packet.command == b"OKAY":
            stream.acknowledged.set()
        elif packet.command == b"CLSE":
            self._streams.pop(packet.arg1)
            self._tasks.pop(packet.arg1).cancel()
            await stream.say(b"CLSE")


def signed_by(key: str, token: bytes, signature: bytes) -> bool:
    """Return whether a signature of a token is a key's: PKCS#1 v1.5, the token taken for a SHA-1."""
    raw = base64.b64decode(key.split()[0])
    modulus, exponent = int.from_bytes(raw[8:264], "little"), int.from_bytes(raw[-4:], "little")
    plain = SHA1_PREFIX + token
    padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(plain)) + b"\x00" + plain
    return pow(int.from_bytes(signature, "big"), exponent, modulus) == int.from_bytes(padded, "big")


@dataclass
class Phone:
    """The daemon's present life: one port, one seed."""

    faults: Faults
    keys: list[str]
    struck: dict[str, int] = field(default_factory=dict)
    connections: dict[asyncio.Task[None], Link] = field(default_factory=dict)
    servers: list[asyncio.Server] = field(default_factory=list)
    clients: int = 0

    async def listen(self, faulty: bool = True) -> int:
        server = await asyncio.start_server(
            self._accept_faulty if faulty else self._accept_calm, "127.0.0.1", 0
        )
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _accept_faulty(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        await self._serve(FaultyLink(reader, writer, self.faults, str(self.clients), self.struck))

    async def _accept_calm(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(Link(reader, writer))

    async def _serve(self, link: Link) -> None:
        task = asyncio.current_task()
        self.connections[task] = link
        try:
            await Connection(link, self.keys).serve()
        finally:
            del self.connections[task]

    async def end(self) -> None:
        for server in self.servers:
            server.close()
        for link in self.connections.values():
            link.close()
        await asyncio.gather(*self.connections, return_exceptions=True)
        end_processes()
        for path in os.scandir(HOME):
            shutil.rmtree(path) if path.is_dir(follow_symlinks=False) else os.unlink(path)


def end_processes() -> None:
    """End all that runs in this root but its first process, the daemon, whose children the orphans become."""
    if os.getpid() != 1:
        raise RuntimeError("the daemon is not the first process of a namespace: start it by root.sh")
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


async def main() -> None:
    requests = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(requests), sys.stdin
    )
    phone: Phone | None = None
    while line := await requests.readline():
        request = json.loads(line)
        if request.get("report"):
            answer = {"struck": phone.struck, "clients": phone.clients}
        elif request.get("calm"):
            answer = {"port": await phone.listen(faulty=False)}
        else:
            if phone:
                await phone.end()
            faults = Faults(request.get("chances", {}), request.get("seed", 0), request.get("after", 0))
            phone = Phone(faults, request.get("keys", []))
            answer = {"port": await phone.listen()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
