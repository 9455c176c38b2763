"""The connection to a daemon, against a scripted one at the other end of a socket."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from compiler.errors import DeviceError
from devices.transports.adb.greeting import greet
from devices.transports.adb.keys import Key
from devices.transports.adb.packets import HEADER, Packet, TcpPipe, read_packet, write_packet

BANNER = b"device::ro.product.name=x;features=shell_v2,cmd"
HELLO = Packet(b"CNXN", 0x01000000, 4096, BANNER)


@pytest.fixture
def daemon():
    """Start a daemon that follows a script, and give the port it listens on."""
    started = []

    def start(script: Callable[[TcpPipe], None]) -> int:
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            connection, _ = listening.accept()
            pipe = TcpPipe.__new__(TcpPipe)
            pipe._socket, pipe._closed = connection, False
            try:
                script(pipe)
            except (EOFError, OSError):
                pass
            finally:
                pipe.close()

        thread = threading.Thread(target=serve)
        thread.start()
        started.append((listening, thread))
        return listening.getsockname()[1]

    yield start
    for listening, thread in started:
        thread.join(10)
        assert not thread.is_alive()
        listening.close()


def meet(port: int, keys=(), **times: float):
    return greet(TcpPipe("127.0.0.1", port, 5), "adb:x", lambda: keys, **times)


def greets(pipe: TcpPipe) -> None:
    assert read_packet(pipe).command == b"CNXN"
    write_packet(pipe, HELLO)


def opens(pipe: TcpPipe) -> Packet:
    greets(pipe)
    asked = read_packet(pipe)
    write_packet(pipe, Packet(b"OKAY", 7, asked.arg0))
    return asked


def wait_for_end(pipe: TcpPipe) -> None:
    while True:
        read_packet(pipe)


def test_a_stream_waits_for_the_okay_of_each_packet_and_gives_one_for_each(daemon) -> None:
    seen: list[bytes] = []
    early: list[object] = []

    def script(pipe: TcpPipe) -> None:
        asked = opens(pipe)
        seen.append(bytes(asked.payload))
        for _ in range(3):
            packet = read_packet(pipe)
            seen.append(bytes(packet.payload))
            early.extend(select.select([pipe._socket], [], [], 0.1)[0])
            write_packet(pipe, Packet(b"OKAY", 7, asked.arg0))
        write_packet(pipe, Packet(b"WRTE", 7, asked.arg0, b"answer"))
        assert read_packet(pipe).command == b"OKAY"
        write_packet(pipe, Packet(b"CLSE", 7, asked.arg0))
        wait_for_end(pipe)

    connection = meet(daemon(script))
    assert connection.features == {"shell_v2", "cmd"}
    stream = connection.open("sync:")
    stream.send(b"a" * 4096 + b"b" * 4096 + b"c", 10)  # 4096 is the most that this daemon takes
    assert stream.receive(10) == b"answer"
    assert stream.receive(10) == b""
    with pytest.raises(BrokenPipeError):
        stream.send(b"more", 10)
    connection.close()
    assert seen == [b"sync:\0", b"a" * 4096, b"b" * 4096, b"c"]
    assert early == []


def spoilt(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(HEADER.pack(b"WRTE", 7, 1, 4, 4 * ord("x"), bytes(b ^ 0xFF for b in b"WRTE")) + b"xxxx")
    change(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.__setitem__(-1, 0), "wrong checksum"),
        (lambda d: d.__setitem__(0, 0), "a packet begins with"),
        (lambda d: d.__setitem__(20, 0), "a packet begins with"),
        (
            lambda d: d.__setitem__(slice(12, 16), struct.pack("<I", 1 << 30)),
            "says it holds 1073741824 bytes",
        ),
    ],
)
def test_a_corrupted_packet_ends_the_connection_and_is_not_believed(daemon, change, said) -> None:
    def script(pipe: TcpPipe) -> None:
        opens(pipe)
        pipe.write(spoilt(change))
        wait_for_end(pipe)

    connection = meet(daemon(script))
    stream = connection.open("shell:")
    with pytest.raises(DeviceError, match=f"adb:x was lost: .*{said}"):
        stream.receive(10)
    with pytest.raises(DeviceError, match="was lost"):
        connection.open("shell:")


def test_a_daemon_that_refuses_hangs_or_goes(daemon) -> None:
    def refuses(pipe: TcpPipe) -> None:
        greets(pipe)
        asked = read_packet(pipe)
        write_packet(pipe, Packet(b"CLSE", 0, asked.arg0))
        wait_for_end(pipe)

    connection = meet(daemon(refuses))
    with pytest.raises(DeviceError, match="refuses the service 'jdwp:1'"):
        connection.open("jdwp:1")
    with pytest.raises(DeviceError, match=r"did not open 'sync:' within 0\.2 s"):
        connection.open("sync:", 0.2)
    connection.close()

    def goes(pipe: TcpPipe) -> None:
        opens(pipe)

    stream = meet(daemon(goes)).open("shell:")
    with pytest.raises(DeviceError, match="was lost"):
        stream.receive(10)

    def says_nothing(pipe: TcpPipe) -> None:
        opens(pipe)
        wait_for_end(pipe)

    connection = meet(daemon(says_nothing))
    with pytest.raises(TimeoutError):
        connection.open("shell:").receive(0.2)
    connection.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, r"does not greet as an adb daemon does: no greeting within 0\.3 s"),
        (Packet(b"STLS", 0x01000000, 0), "wants TLS .* which only an adb server speaks"),
        (Packet(b"CNXN", 0x01000000, 4096, b"recovery::"), "is in the state 'recovery'"),
    ],
)
def test_a_greeting_that_does_not_let_us_in(daemon, answer, said) -> None:
    def script(pipe: TcpPipe) -> None:
        read_packet(pipe)
        if answer is not None:
            write_packet(pipe, answer)
        wait_for_end(pipe)

    with pytest.raises(DeviceError, match=said):
        meet(daemon(script), greeting_s=0.3)


def test_keys_are_tried_in_turn_and_then_the_user_is_asked(daemon, tmp_path) -> None:
    seen: list[tuple[int, bytes]] = []

    def script(pipe: TcpPipe) -> None:
        read_packet(pipe)
        for turn in range(3):
            write_packet(pipe, Packet(b"AUTH", 1, 0, b"token %d" % turn))
            packet = read_packet(pipe)
            seen.append((packet.arg0, bytes(packet.payload)))
        write_packet(pipe, HELLO)
        wait_for_end(pipe)

    keys = [Key(tmp_path, b"public", lambda token, n=n: b"%d signs " % n + token) for n in range(2)]
    connection = meet(daemon(script), keys)
    assert seen == [(2, b"0 signs token 0"), (2, b"1 signs token 1"), (3, b"public\0")]
    connection.close()
