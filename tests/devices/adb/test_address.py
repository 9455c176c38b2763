"""How phones are named, and what the environment adds."""

from __future__ import annotations

import pytest

from compiler.errors import DeviceError
from devices import expand_spec
from devices.transports.adb.address import Address, parse_address, server_port


@pytest.mark.parametrize(
    ("text", "address", "endpoint"),
    [
        ("", Address("auto", ""), None),
        ("R5CT30", Address("auto", "R5CT30"), None),
        ("192.168.1.7:5555", Address("auto", "192.168.1.7:5555"), ("192.168.1.7", 5555)),
        ("[::1]:5555", Address("auto", "[::1]:5555"), ("::1", 5555)),
        ("server:R5CT30", Address("server", "R5CT30"), None),
        ("server@5099:a:1", Address("server", "a:1", 5099), ("a", 1)),
        ("auto@5099", Address("auto", "", 5099), None),
        ("direct:a:1", Address("direct", "a:1"), ("a", 1)),
        ("usb", Address("usb", ""), None),
        ("usb:R5CT30", Address("usb", "R5CT30"), None),
    ],
)
def test_addresses(text, address, endpoint) -> None:
    assert parse_address(text) == address
    assert parse_address(text).endpoint == endpoint


def test_a_daemon_needs_host_and_port() -> None:
    for text in ("direct", "direct:R5CT30", "direct:a:99999"):
        with pytest.raises(DeviceError, match=r"as in adb:direct:192\.168\.1\.7:5555"):
            parse_address(text)


@pytest.mark.parametrize(
    ("spec", "environment", "expanded"),
    [
        ("adb", {}, "adb"),
        ("adb", {"ANDROID_SERIAL": "X"}, "adb:X"),
        ("adb:Y", {"ANDROID_SERIAL": "X"}, "adb:Y"),
        ("adb:server", {"ANDROID_SERIAL": "X"}, "adb:server:X"),
        ("adb:usb", {"ANDROID_SERIAL": "X"}, "adb:usb:X"),
        ("adb:direct:a:1", {"ANDROID_SERIAL": "X", "ANDROID_ADB_SERVER_PORT": "7"}, "adb:direct:a:1"),
        ("adb", {"ANDROID_ADB_SERVER_PORT": "7"}, "adb:auto@7"),
        ("adb:server:a:1", {"ANDROID_ADB_SERVER_PORT": "7"}, "adb:server@7:a:1"),
        ("adb:server@8:a:1", {"ANDROID_ADB_SERVER_PORT": "7"}, "adb:server@8:a:1"),
        ("local", {"ANDROID_SERIAL": "X"}, "local"),
        ("pigeon:x", {"ANDROID_SERIAL": "X"}, "pigeon:x"),
    ],
)
def test_the_environment_is_written_out(spec, environment, expanded) -> None:
    assert expand_spec(spec, environment) == expanded


def test_a_port_that_is_none() -> None:
    with pytest.raises(DeviceError, match="ANDROID_ADB_SERVER_PORT='x' is not a port"):
        server_port({"ANDROID_ADB_SERVER_PORT": "x"})
