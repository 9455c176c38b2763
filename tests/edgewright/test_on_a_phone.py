"""`profiles detect` and `doctor` on the stand-in phone, through an adb server and straight to its daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewright.cli import main
from profiles import load_profile
from tests.standin_phone import running_adb_server, running_phone

pytestmark = pytest.mark.target


@pytest.fixture(scope="module")
def phone():
    with running_phone("--wipe") as started:
        yield started


@pytest.fixture(scope="module")
def locked_phone():
    with running_phone("--wipe", "--secure") as started:
        yield started


@pytest.fixture(scope="module")
def adb_server(tmp_path_factory):
    with running_adb_server(tmp_path_factory.mktemp("adb")) as started:
        yield started


@pytest.fixture
def private(monkeypatch, tmp_path: Path) -> Path:
    """A home of our own, and no adb server unless a test runs one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    return tmp_path


def examined(capsys, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json", *arguments])
    return code, {row["check"]: row for row in json.loads(capsys.readouterr().out)["checks"]}


def test_what_the_phone_reports_is_what_its_shipped_profile_says(phone, private: Path) -> None:
    file = private / "mine.toml"
    assert main(["profiles", "detect", "--device", f"adb:direct:{phone.serial}", "-o", str(file)]) == 0
    found, shipped = load_profile(file), load_profile("standin")
    for name in ("clusters", "isa", "soc", "arch", "cpu", "transport", "cluster", "affinity"):
        assert getattr(found, name) == getattr(shipped, name), name
    assert found.expect["model"] == shipped.expect["model"]


def test_a_phone_that_is_ready(phone, private: Path, capsys) -> None:
    code, found = examined(capsys, "--device", f"adb:direct:{phone.serial}")
    assert [row for row in found.values() if row["status"] == "fail"] == [] and code == 0
    assert {found[name]["status"] for name in ("device", "abi", "space")} == {"pass"}
    assert "Stand-in Phone" in found["device"]["says"] and "arm64-v8a" in found["abi"]["says"]


def test_a_phone_that_does_not_know_us(locked_phone, private: Path, capsys) -> None:
    code, found = examined(capsys, "--device", f"adb:direct:{locked_phone.serial}")
    assert (code, found["device"]["status"]) == (5, "fail")
    assert "accept the prompt on the phone" in found["device"]["says"]


def test_the_phones_of_an_adb_server(
    phone, locked_phone, adb_server, private: Path, monkeypatch, capsys
) -> None:
    adb_server.run("connect", phone.serial)
    adb_server.run("connect", locked_phone.serial)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    code = main(["doctor"])
    shown = " ".join(capsys.readouterr().out.split())
    assert code == 5 and f"port {adb_server.port}, protocol" in shown
    assert f"pass phone {phone.serial} is ready" in shown
    assert f"fail phone {locked_phone.serial} is unauthorized next: accept the prompt on the phone" in shown
