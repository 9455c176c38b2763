"""The file service of an adb daemon (`sync:`, version 1): files to and from the phone.

Requests and answers are four letters and a length. SEND takes `path,mode`, DATA chunks of at most
64 KiB, and DONE; RECV answers DATA chunks and DONE; FAIL carries a message. Many chunks go into
one write, or each would wait for the daemon on its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import IO

from compiler.errors import DeviceError
from devices.transports.adb.stream import Bridge, Reader, Stream

CHUNK = 64 * 1024
HEAD = struct.Struct("<4sI")
TIMEOUT_S = 60.0


def send_file(bridge: Bridge, blocks: Iterable[bytes], remote: str, mode: int) -> None:
    """Write a file on the phone; DeviceError with what the phone says when it cannot be."""
    stream = bridge.open("sync:")
    try:
        spec = f"{remote},{mode | 0o100000}".encode(errors="surrogateescape")
        stream.send(HEAD.pack(b"SEND", len(spec)) + spec, TIMEOUT_S)
        for block in blocks:
            stream.send(_framed(block), TIMEOUT_S)
        stream.send(HEAD.pack(b"DONE", 0), TIMEOUT_S)
        _check(Reader(stream, TIMEOUT_S), bridge.name, remote)
        _quit(stream)
    except BrokenPipeError as error:
        # The daemon says FAIL and stops reading, when the storage is full for instance.
        _explain(stream, bridge.name, remote)
        raise DeviceError(f"{bridge.name} was lost while it took {remote!r}") from error
    except (TimeoutError, EOFError) as error:
        raise _stuck(bridge.name, "took", remote, error) from error
    finally:
        stream.close()


def receive_file(bridge: Bridge, remote: str, sink: IO[bytes]) -> None:
    """Read a file of the phone into `sink`; DeviceError with what the phone says when it cannot be."""
    stream = bridge.open("sync:")
    try:
        path = remote.encode(errors="surrogateescape")
        stream.send(HEAD.pack(b"RECV", len(path)) + path, TIMEOUT_S)
        reader = Reader(stream, TIMEOUT_S)
        while (chunk := _data(reader, bridge.name, remote)) is not None:
            sink.write(chunk)
        _quit(stream)
    except (TimeoutError, EOFError, BrokenPipeError) as error:
        raise _stuck(bridge.name, "gave", remote, error) from error
    finally:
        stream.close()


def _framed(block: bytes) -> bytes:
    view = memoryview(block)
    parts: list[bytes | memoryview] = []
    for start in range(0, len(view), CHUNK):
        part = view[start : start + CHUNK]
        parts += [HEAD.pack(b"DATA", len(part)), part]
    return b"".join(parts)


def _data(reader: Reader, name: str, remote: str) -> bytes | None:
    kind, length = HEAD.unpack(reader.exact(HEAD.size))
    if kind == b"DONE":
        return None
    if kind == b"DATA" and length <= CHUNK:
        return reader.exact(length)
    raise _refused(kind, length, reader, name, remote)


def _check(reader: Reader, name: str, remote: str) -> None:
    kind, length = HEAD.unpack(reader.exact(HEAD.size))
    if kind != b"OKAY":
        raise _refused(kind, length, reader, name, remote)


def _refused(kind: bytes, length: int, reader: Reader, name: str, remote: str) -> DeviceError:
    if kind != b"FAIL":
        return DeviceError(f"{name} breaks the file protocol at {remote!r}: it says {kind!r}")
    return DeviceError(
        f"{name} refuses {remote!r}: {reader.exact(min(length, CHUNK)).decode(errors='replace')}"
    )


def _explain(stream: Stream, name: str, remote: str) -> None:
    try:
        _check(Reader(stream, 5.0), name, remote)
    except (TimeoutError, EOFError):
        return


def _quit(stream: Stream) -> None:
    stream.send(HEAD.pack(b"QUIT", 0), TIMEOUT_S)


def _stuck(name: str, verb: str, remote: str, error: Exception) -> DeviceError:
    why = "nothing moved for a minute" if isinstance(error, TimeoutError) else str(error) or "it hung up"
    return DeviceError(f"{name} was lost while it {verb} {remote!r}: {why}")
