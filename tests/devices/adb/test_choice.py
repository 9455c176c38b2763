"""The way that is chosen, and what is said where there is none: a made-up adb server answers."""

from __future__ import annotations

import socket
import threading

import pytest

from compiler.errors import DeviceError
from devices.transports.adb import TRANSPORT
from devices.transports.adb.address import Address
from devices.transports.adb.choice import open_bridge, private_folder
from devices.transports.adb.direct import DirectBridge
from devices.transports.adb.server import ServerBridge


class FakeServer:
    """Answers from what it is given, a list one by one and then its last for ever; anything else fails."""

    def __init__(self, phones: str, connects: str = "failed to connect") -> None:
        self.answers = {"host:devices": [phones], "host:connect": [connects]}
        self.asked: list[str] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            with connection:
                request = connection.recv(4096)[4:].decode()
                if request == "stop":
                    return
                self.asked.append(request)
                left = self.answers.get(":".join(request.split(":")[:2]), [])
                answer = left.pop(0) if len(left) > 1 else left[0] if left else None
                said = b"unknown" if answer is None else answer.encode()
                connection.sendall((b"FAIL" if answer is None else b"OKAY") + b"%04x" % len(said) + said)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"0004stop")
        self.thread.join()
        self.listening.close()


@pytest.fixture
def server():
    started: list[FakeServer] = []

    def start(phones: str, connects: str = "failed to connect") -> FakeServer:
        started.append(FakeServer(phones, connects))
        return started[-1]

    yield start
    for fake in started:
        fake.close()


def test_a_phone_the_server_has_lost_and_still_calls_connected_is_asked_for_again(server) -> None:
    fake = server("", "already connected to 127.0.0.1:9")
    fake.answers["host:devices"] = ["", "", "127.0.0.1:9\tunauthorized\n"]
    with pytest.raises(DeviceError, match="accept the prompt"):
        open_bridge(Address("server", "127.0.0.1:9", fake.port))
    assert [a.split(":")[1] for a in fake.asked].count("connect") == 2


def test_the_only_phone_is_taken(server) -> None:
    bridge = open_bridge(Address("auto", "", server("A\tdevice\n").port))
    assert isinstance(bridge, ServerBridge) and bridge.name == "adb:A"


@pytest.mark.parametrize(
    ("phones", "serial", "said"),
    [
        ("", "", "no phone is attached"),
        ("A\tdevice\nB\toffline\n", "", r"several phones, name one: A, B \(offline\)"),
        ("A\tunauthorized\n", "", "'A' is unauthorized: accept the prompt on the phone, then run again"),
        ("A\tdevice\nB\toffline\n", "B", "'B' is offline: unplug it"),
        ("A\tdevice\n", "C", "no phone 'C'; the adb server knows: A"),
        ("A\tno permissions (user in plugdev group)\n", "A", "udev rules"),
    ],
)
def test_a_phone_that_cannot_be_used(server, phones, serial, said) -> None:
    with pytest.raises(DeviceError, match=said):
        open_bridge(Address("auto", serial, server(phones).port))


def test_an_address_the_server_does_not_reach_is_tried_directly_unless_the_server_was_asked_for(
    server,
) -> None:
    fake = server("")
    assert isinstance(open_bridge(Address("auto", "127.0.0.1:9", fake.port)), DirectBridge)
    assert "host:connect:127.0.0.1:9" in fake.asked
    with pytest.raises(DeviceError, match=r"cannot connect to '127\.0\.0\.1:9': failed to connect"):
        open_bridge(Address("server", "127.0.0.1:9", fake.port))


def test_without_a_server_it_is_direct_or_an_error() -> None:
    assert isinstance(open_bridge(Address("auto", "127.0.0.1:9", 1)), DirectBridge)
    with pytest.raises(DeviceError, match="no adb server answers on port 1; start one with"):
        open_bridge(Address("server", "A", 1))
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:9 cannot be reached: Connection refused"):
        open_bridge(Address("direct", "127.0.0.1:9")).features()


def test_phones_are_listed_with_what_keeps_us_out(server) -> None:
    port = server("A\tdevice\nB\tunauthorized\n").port
    found = TRANSPORT.find({"ANDROID_ADB_SERVER_PORT": str(port)})
    assert [f.spec for f in found] == [f"adb:auto@{port}:A", f"adb:auto@{port}:B"]
    assert found[0].problem == "" and "accept the prompt" in found[1].problem
    assert TRANSPORT.find({"ANDROID_ADB_SERVER_PORT": "1"}) == ()


def test_the_folder_on_a_phone_is_ours_alone_and_stays() -> None:
    assert private_folder() == private_folder()
    assert private_folder().startswith("/data/local/tmp/edgewright-")
