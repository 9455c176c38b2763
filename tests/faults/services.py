"""What the daemon does on a stream: shell v2, the legacy shell, and file sync v1.

Commands run by the `sh` of the root that the daemon was started in (`root.sh`), files are that
root's own.
"""

from __future__ import annotations

import asyncio
import os
import stat
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

HOME = "/data/local/tmp"
STDIN, OUT, ERR, EXIT, CLOSE_STDIN = range(5)
SYNC_CHUNK = 1 << 16


class Stream(Protocol):
    """What a service sees of its stream."""

    input: asyncio.StreamReader

    async def write(self, data: bytes) -> None: ...


async def serve(stream: Stream, service: str) -> bool:
    """Do what a service name asks for; False when there is no such service."""
    name, _, argument = service.partition(":")
    kind, *options = name.split(",")
    if kind == "sync":
        await serve_sync(stream)
    elif kind == "shell" and "v2" in options:
        await (serve_terminal if "pty" in options else serve_shell)(stream, argument)
    elif kind in ("shell", "exec"):
        await serve_legacy(stream, argument)
    else:
        return False
    return True


async def start(command: str, program: tuple[str, ...] = ("setsid", "sh"), **pipes: int) -> Process:
    arguments = ("-c", command) if command else ()
    path = f"/usr/bin:/bin:{os.path.dirname(sys.executable)}"  # a python3 in any case
    environment = {"PATH": path, "HOME": HOME, "TMPDIR": HOME, "LANG": "C.UTF-8"}
    return await asyncio.create_subprocess_exec(*program, *arguments, cwd=HOME, env=environment, **pipes)


async def pump(source: asyncio.StreamReader, sink: Callable[[bytes], Awaitable[None]]) -> None:
    while data := await source.read(SYNC_CHUNK):
        await sink(data)


def shell_packet(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


async def feed(stream: Stream, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
    """Pass on what a shell v2 client types, until it closes its side."""
    with suppress(asyncio.IncompleteReadError, OSError):
        while True:
            kind, size = struct.unpack("<BI", await stream.input.readexactly(5))
            data = await stream.input.readexactly(size)
            if kind == STDIN:
                write(data)
            elif kind == CLOSE_STDIN:
                break
    with suppress(OSError):
        close()


async def finish(stream: Stream, process: Process) -> None:
    code = await process.wait()
    await stream.write(shell_packet(EXIT, bytes([code if code >= 0 else 0x80 - code])))


async def serve_shell(stream: Stream, command: str) -> None:
    process = await start(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    typed = asyncio.create_task(feed(stream, process.stdin.write, process.stdin.close))
    try:
        await asyncio.gather(
            pump(process.stdout, lambda data: stream.write(shell_packet(OUT, data))),
            pump(process.stderr, lambda data: stream.write(shell_packet(ERR, data))),
        )
        await finish(stream, process)
    finally:
        typed.cancel()
        await end(process)


async def serve_terminal(stream: Stream, command: str) -> None:
    ours, theirs = os.openpty()
    shell = ("setsid", "--ctty", "sh")
    process = await start(command, shell, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    typed = asyncio.create_task(feed(stream, lambda data: os.write(ours, data), lambda: None))
    try:
        with suppress(OSError):  # EIO: the last process at the terminal is gone
            while shown := await asyncio.to_thread(os.read, ours, SYNC_CHUNK):
                await stream.write(shell_packet(OUT, shown))
        await finish(stream, process)
    finally:
        typed.cancel()
        await end(process)
        os.close(ours)


async def serve_legacy(stream: Stream, command: str) -> None:
    process = await start(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    try:
        await pump(process.stdout, stream.write)
    finally:
        await end(process)


async def end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def serve_sync(stream: Stream) -> None:
    """Serve file requests until the client says QUIT."""
    requests = {b"STAT": sync_stat, b"LIST": sync_list, b"SEND": sync_send, b"RECV": sync_receive}
    while True:
        request, size = struct.unpack("<4sI", await stream.input.readexactly(8))
        argument = os.fsdecode(await stream.input.readexactly(size)) if size else ""
        if request == b"QUIT":
            return
        if request not in requests:
            await stream.write(failure(f"unknown command {request!r}"))
            return
        try:
            await requests[request](stream, argument)
        except (OSError, ValueError) as error:
            await stream.write(failure(getattr(error, "strerror", None) or str(error)))


def failure(message: str) -> bytes:
    return struct.pack("<4sI", b"FAIL", len(message.encode())) + message.encode()


async def sync_stat(stream: Stream, path: str) -> None:
    try:
        found = os.lstat(path)
        answer = (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))
    except OSError:
        answer = (0, 0, 0)
    await stream.write(struct.pack("<4sIII", b"STAT", *answer))


async def sync_list(stream: Stream, path: str) -> None:
    with suppress(OSError):
        for name in sorted(os.listdir(path)):
            found, raw = os.lstat(f"{path}/{name}"), os.fsencode(name)
            words = (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime), len(raw))
            await stream.write(struct.pack("<4sIIII", b"DENT", *words) + raw)
    await stream.write(struct.pack("<4sIIII", b"DONE", 0, 0, 0, 0))


async def sync_send(stream: Stream, argument: str) -> None:
    path, _, mode = argument.rpartition(",")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            await copy_chunks(stream, file.write)
        if not stat.S_ISLNK(int(mode)):
            os.chmod(path, int(mode) & 0o777)
    except OSError:
        await copy_chunks(stream, lambda data: None)  # the client sends on until it reads the failure
        raise
    await stream.write(struct.pack("<4sI", b"OKAY", 0))


async def copy_chunks(stream: Stream, write: Callable[[bytes], object]) -> None:
    while True:
        kind, size = struct.unpack("<4sI", await stream.input.readexactly(8))
        if kind == b"DONE":
            return  # the size is the time of the last change here
        if kind != b"DATA" or size > SYNC_CHUNK:
            raise ValueError(f"expected DATA, got {kind!r} of {size} bytes")
        write(await stream.input.readexactly(size))


async def sync_receive(stream: Stream, path: str) -> None:
    with open(path, "rb") as file:
        while data := file.read(SYNC_CHUNK):
            await stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
    await stream.write(struct.pack("<4sI", b"DONE", 0))
