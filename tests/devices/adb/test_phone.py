"""Phones that refuse us or go away, on the genuine daemon, by both ways."""

from __future__ import annotations

import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from devices.line_check import add_check
from devices.transports.adb.address import parse_address
from devices.transports.adb.choice import open_phone
from devices.transports.adb.direct import DirectBridge, tcp_pipe
from devices.transports.adb.greeting import greet
from devices.transports.adb.keys import load_keys
from tests.standin_phone import running_phone

pytestmark = pytest.mark.target
WAYS = ["adb_server", "adb_direct"]


@pytest.fixture
def mortal():
    """A phone that a test may end."""
    with running_phone() as started:
        yield started


def open_by(way: str, phone, request):
    if way == "adb_direct":
        return open_phone(parse_address(f"direct:{phone.serial}"))
    server = request.getfixturevalue("adb_server")
    server.run("disconnect")  # a phone that came back on its port is offline to a server that knew it
    return open_phone(parse_address(f"server@{server.port}:{phone.serial}"))


def test_our_key_is_made_private_and_opens_a_secure_phone(tmp_path: Path) -> None:
    (key,) = load_keys(tmp_path / "config" / "edgewright")
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in key.path.parent.iterdir()) == ["adbkey", "adbkey.pub"]
    assert load_keys(key.path.parent)[0].public == key.public
    with running_phone("--secure", "--key", str(key.path) + ".pub") as phone:
        (other,) = load_keys(tmp_path / "other")
        bridge = DirectBridge(
            "adb:p", lambda: greet(tcp_pipe("127.0.0.1", phone.port, "p"), "p", lambda: (other, key))
        )
        assert "shell_v2" in bridge.features()
        bridge.close()


def test_a_phone_that_does_not_know_us_says_what_to_do(tmp_path: Path, adb_server) -> None:
    with running_phone("--secure") as phone:
        keys = load_keys(tmp_path / "keys")

        def connect():
            return greet(tcp_pipe("127.0.0.1", phone.port, "adb:p"), "adb:p", lambda: keys, accept_s=0.3)

        with pytest.raises(
            DeviceError, match=r"adb:p does not know our key.*accept the prompt on the phone, then"
        ):
            connect()
        with pytest.raises(DeviceError, match="accept the prompt on the phone, then run again"):
            open_phone(parse_address(f"server@{adb_server.port}:{phone.serial}"))
        adb_server.run("disconnect")


def test_what_is_no_daemon_is_told_from_one(ssh_server) -> None:
    with pytest.raises(DeviceError, match=r"adb:p does not greet as an adb daemon does"):
        greet(tcp_pipe("127.0.0.1", ssh_server.port, "adb:p"), "adb:p", lambda: ())


@pytest.mark.parametrize("way", WAYS)
def test_a_phone_that_dies_during_a_command_is_lost_at_once_and_can_come_back(mortal, way, request) -> None:
    device = open_by(way, mortal, request)
    threading.Timer(1.0, mortal.kill).start()
    with pytest.raises(DeviceError, match=f"adb:{mortal.serial} was lost"):
        device.run(["sleep", "600"], timeout_s=300)
    with pytest.raises(DeviceError):
        device.run(["true"])
    mortal.start()
    again = device if way == "adb_direct" else open_by(way, mortal, request)
    assert again.run(["echo", "back"]).stdout == "back\n"
    device.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_phone_that_dies_during_a_request_is_lost(mortal, way, request, tmp_path: Path) -> None:
    device = open_by(way, mortal, request)
    runner = tmp_path / "runner"
    ready = add_check(b"", b'{"event": "ready"}').decode()
    runner.write_text(f"#!/bin/sh\necho '{ready}'\nread line\nsleep 600\n")
    runner.chmod(0o755)
    session = device.start([device.push(runner)], {}, ())
    threading.Timer(1.0, mortal.kill).start()
    with pytest.raises(DeviceError, match="was lost"):
        session.request({"do": "time"}, timeout_s=300)
    session.close()
    device.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_push_that_the_phones_death_broke_goes_on_when_it_is_back(
    mortal, way, request, tmp_path: Path
) -> None:
    source = tmp_path / "big"
    with source.open("wb") as file:
        file.truncate(5 << 20)
    device = open_by(way, mortal, request)
    device.storage = replace(device.storage, chunk=2 << 20)
    send, sent = device.shell.send, []

    def dying(blocks, remote, mode):
        def until_dead():
            for number, block in enumerate(blocks):
                if len(sent) == 2 and number == 1:
                    mortal.kill()
                yield block

        sent.append(remote)
        send(until_dead(), remote, mode)

    device.shell.send = dying
    with pytest.raises(DeviceError):
        device.push(source)
    assert len(sent) == 2
    mortal.start()
    device.close()
    device = open_by(way, mortal, request)
    device.storage = replace(device.storage, chunk=2 << 20)
    send, sent[:] = device.shell.send, ["", "", ""]
    device.shell.send = dying
    there = device.push(source)
    assert len(sent) == 3 + 2  # the first of three pieces was there
    assert device.run(["sh", "-c", 'wc -c <"$0"', there]).stdout.split() == [str(5 << 20)]
    assert device.run(["ls", "-A", there + "/../../../partial"]).stdout == ""
    device.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_runner_ends_when_its_host_is_gone(phone, way, request) -> None:
    device = open_by(way, phone, request)
    word = f"9{time.time_ns()}"
    channel = device.shell.open(f"exec sleep {word}")
    device.shell.close() if way == "adb_direct" else channel._stream.close()
    alive = ["sh", "-c", 'grep -l "slee[p].$0" /proc/[0-9]*/cmdline 2>/dev/null; true', word]
    ended = any(not device.run(alive).stdout or time.sleep(0.1) for _ in range(100))
    assert ended
    device.close()


def test_the_phones_state_is_what_it_was_set_to(phone, request) -> None:
    device = open_by("adb_direct", phone, request)
    phone.set(temp="42", battery="31", plugged="none", screen="off", power_save="on", governor="performance")
    try:
        state = device.state()
    finally:
        phone.set(temp="30", battery="87", plugged="usb", screen="on", power_save="off", governor="schedutil")
    assert (state.thermal_status, state.temperature_c, state.battery_c) == ("2", 49.0, 37.2)
    assert (state.battery_percent, state.charging, state.screen_on) == (31.0, False, False)
    assert (state.power_save, state.governor, len(state.frequency_mhz)) == (True, "performance", 8)
    found = device.fingerprint()
    assert (found["model"], found["abis"], found["sdk"]) == ("Stand-in Phone", "arm64-v8a", "33")
    device.close()
