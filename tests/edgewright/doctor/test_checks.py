"""Each check on a made-up machine: what passes, what fails, and the next command it names."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from compiler.device import Completed
from compiler.errors import DeviceError
from devices.database import MeasurementDatabase
from edgewright import doctor
from edgewright.cli import main
from edgewright.doctor import (
    CHECKS,
    Finding,
    Status,
    Surroundings,
    abi,
    adb_keys,
    adb_phones,
    adb_program,
    database,
    examination,
    examine,
    python,
    sdks,
    space,
    toolchain,
    usb,
)
from edgewright.doctor.examination import exit_code, within
from edgewright.doctor.finding import DEVICE, HOST


@contextmanager
def adb_server(answers: dict[str, bytes]):
    """A server that answers each request by its text, raw, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                length = int(connection.recv(4), 16)
                connection.sendall(answers.get(connection.recv(length).decode(), b"FAIL0003no!"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def here(tmp_path: Path, closed_port: int):
    def _here(**changes) -> Surroundings:
        standard = {
            "database": str(tmp_path / "m.db"),
            "home": tmp_path / "home",
            "adb_port": closed_port,
            "usb": tmp_path / "usb",
            "usb_nodes": tmp_path / "nodes",
            "find_program": lambda name: None,
        }
        return Surroundings(**{**standard, **changes})

    return _here


def one(found) -> Finding:
    (finding,) = found
    return finding


def test_python_of_another_version_fails(here, monkeypatch) -> None:
    assert one(python.check(here())).status is Status.PASS
    monkeypatch.setattr(python, "NEEDED", (3, 99))
    finding = one(python.check(here()))
    assert (finding.status, "python3.99 -m venv" in finding.next) == (Status.FAIL, True)


def test_packages_are_compared_with_the_pins() -> None:
    pin = Requirement("executorch==1.4.1")
    found = {version: sdks.compare("executorch", {"x": (pin, version)}) for version in ("1.4.1", "1.5", None)}
    assert [f.status for f in found.values()] == [Status.PASS, Status.FAIL, Status.WARN]
    assert "executorch 1.5 (needs ==1.4.1)" in found["1.5"].says
    assert {f.next for f in found.values()} == {None, "pip install 'edgewright[executorch]'"}


def test_packages_are_read_from_our_own_metadata(here, monkeypatch) -> None:
    needs = [
        'typer>=0.1; extra == "tvm"',
        'nowhere>=1; extra == "android"',
        "rich",
        'edgewright[tvm]; extra == "all"',
    ]
    monkeypatch.setattr(sdks.metadata, "requires", lambda name: needs)
    found = {f.check: f for f in sdks.check(here())}
    assert {name: f.status for name, f in found.items()} == {
        "packages for tvm": Status.PASS,
        "packages for android": Status.WARN,
    }


def test_without_metadata_the_pins_are_unknown(here, monkeypatch) -> None:
    def missing(name: str):
        raise sdks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sdks.metadata, "requires", missing)
    assert one(sdks.check(here())).status is Status.WARN


def test_zig_and_qemu(here, monkeypatch) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    zig, qemu = toolchain.check(here())
    assert (zig.status, qemu.status) == (Status.WARN, Status.WARN)
    assert "edgewright[tvm]" in zig.next and "qemu-user" in qemu.next
    monkeypatch.setattr(toolchain, "find_spec", lambda name: object())
    found = list(toolchain.check(here(find_program=lambda name: f"/usr/bin/{name}")))
    assert [f.status for f in found] == [Status.PASS, Status.PASS]
    assert [f.check for f in toolchain.check(here(device="local"))] == ["linker"]


def test_a_database_is_opened_but_never_made(here, tmp_path: Path) -> None:
    assert one(database.check(here())).status is Status.PASS
    assert not (tmp_path / "m.db").exists()
    MeasurementDatabase(tmp_path / "m.db")
    assert "can be written" in one(database.check(here())).says
    (tmp_path / "other").write_text("not a database, by any means, but long enough to be taken for one" * 9)
    assert one(database.check(here(database=str(tmp_path / "other")))).status is Status.FAIL
    (tmp_path / "file").write_text("")
    finding = one(database.check(here(database=str(tmp_path / "file" / "m.db"))))
    assert (finding.status, "--database" in finding.next) == (Status.FAIL, True)


def test_adb_is_looked_for_only_where_phones_are_of_interest(here) -> None:
    for check in (adb_program, adb_keys, adb_phones, usb):
        assert list(check.check(here(device="ssh:pi@board"))) == []


def test_the_adb_program_and_its_server(here) -> None:
    program, server = adb_program.check(here())
    assert (program.status, server.status) == (Status.WARN, Status.WARN)
    assert (program.next, server.next) == ("apt-get install adb", "adb start-server")
    with adb_server({"host:version": b"OKAY00040029"}) as port:
        program, server = adb_program.check(here(adb_port=port, find_program=lambda name: "/bin/adb"))
    assert (program.status, server.status) == (Status.PASS, Status.PASS) and "41" in server.says


@pytest.mark.parametrize("answer", [b"", b"OK", b"OKAYzzzz", b"OKAY0009short", b"HTTP/1.1 400 Bad Request"])
def test_a_server_that_speaks_something_else_is_no_server(here, answer: bytes) -> None:
    with adb_server({"host:version": answer, "host:devices": answer}) as port:
        _, server = adb_program.check(here(adb_port=port))
        assert server.status is Status.WARN
        assert list(adb_phones.check(here(adb_port=port))) == []


def test_the_state_of_each_phone_is_told_with_the_next_step(here) -> None:
    listed = "A\tdevice\nB\tunauthorized\nC\toffline\nD\tno permissions (missing udev rules?)\nE\trecovery\n"
    answer = f"OKAY{len(listed):04x}{listed}".encode()
    with adb_server({"host:devices": answer}) as port:
        found = list(adb_phones.check(here(adb_port=port)))
    assert [f.status for f in found] == [Status.PASS] + [Status.FAIL] * 4
    assert "accept the prompt on the phone" in found[1].next
    assert "reconnect" in found[2].next and "udev" in found[3].next and "start Android" in found[4].next
    assert {f.exit_code for f in found[1:]} == {DEVICE}


def test_no_phone_is_a_warning_that_says_how_to_attach_one(here) -> None:
    with adb_server({"host:devices": b"OKAY0000"}) as port:
        finding = one(adb_phones.check(here(adb_port=port)))
    assert finding.status is Status.WARN and "adb tcpip 5555" in finding.next


@pytest.mark.parametrize("place", adb_keys.PLACES)
def test_a_key_that_others_can_read_fails(here, tmp_path: Path, place: str) -> None:
    assert one(adb_keys.check(here())).status is Status.WARN
    key = tmp_path / "home" / place
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    key.chmod(0o640)
    finding = one(adb_keys.check(here()))
    assert (finding.status, finding.next) == (Status.FAIL, f"chmod 600 {key}")
    key.chmod(0o600)
    assert one(adb_keys.check(here())).status is Status.PASS


def test_a_usb_device_for_adb_must_be_ours_to_open(here, tmp_path: Path, monkeypatch) -> None:
    phone, interface, other = (tmp_path / "usb" / name for name in ("1-2", "1-2:1.0", "1-3:1.0"))
    for folder in (phone, interface, other):
        folder.mkdir(parents=True)
    for name, text in (("busnum", "1"), ("devnum", "7"), ("product", "Pixel 8")):
        (phone / name).write_text(f"{text}\n")
    for name, text in zip(usb.FIELDS, usb.ADB, strict=True):
        (interface / name).write_text(f"{text}\n")
        (other / name).write_text("03\n")
    finding = one(usb.check(here()))
    assert (finding.status, finding.exit_code) == (Status.FAIL, DEVICE)
    assert "Pixel 8" in finding.says and "udev" in finding.next
    (tmp_path / "nodes" / "001").mkdir(parents=True)
    (tmp_path / "nodes" / "001" / "007").write_text("")
    assert one(usb.check(here())).status is Status.PASS
    monkeypatch.setattr(usb.os, "access", lambda path, mode: not mode & os.W_OK)
    assert one(usb.check(here())).status is Status.FAIL  # to be read is not enough


@dataclass
class Board:
    """A device that answers any command with one text."""

    text: str = ""
    name: str = "board"

    def fingerprint(self) -> dict[str, str]:
        return {"model": "Board"}

    def run(self, command, env=None, timeout_s=600.0) -> Completed:
        return Completed(0, self.text, "")

    @contextmanager
    def workspace(self):
        yield "/data/local/tmp/x"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("@ uname\naarch64\n@ getprop\n[ro.product.cpu.abilist]: [arm64-v8a,armeabi]\n", Status.PASS),
        ("@ uname\naarch64\n@ getprop\n[ro.product.cpu.abilist]: [armeabi-v7a]\n", Status.FAIL),
        ("@ uname\nriscv64\n", Status.FAIL),
        ("@ uname\nx86_64\n", Status.PASS),
    ],
)
def test_the_abi(text: str, status: Status) -> None:
    assert one(abi.check(Board(text))).status is status


@pytest.mark.parametrize(
    ("free", "status"),
    [("2097152", Status.PASS), ("524288", Status.WARN), ("1024", Status.FAIL), ("-", Status.WARN)],
)
def test_the_room_on_a_device(free: str, status: Status) -> None:
    said = (
        f"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/block/dm-5 9 9 {free} 99% /data\n"
    )
    assert one(space.check(Board(said))).status is status
    assert space.free_mb("") is None


def test_a_check_that_raises_or_hangs_becomes_a_finding() -> None:
    def breaks():
        yield Finding("x", Status.PASS, "first")
        raise ZeroDivisionError("oops")

    first, broken = within(breaks, "x", HOST)
    assert (first.says, broken.status, "ZeroDivisionError: oops" in broken.says) == (
        "first",
        Status.FAIL,
        True,
    )
    gate = threading.Event()
    hung = one(within(lambda: [gate.wait()], "x", DEVICE, timeout_s=0.05))
    gate.set()
    assert (hung.status, hung.exit_code, "no answer within" in hung.says) == (Status.FAIL, DEVICE, True)


def test_a_device_that_cannot_be_reached_is_one_failure_and_exit_5(here) -> None:
    found = [f for f in examine(here(device="nowhere:1")) if f.status is Status.FAIL]
    assert "is not a transport" in one(found).says and exit_code(found) == 5


def test_a_device_that_is_there_is_examined(here, monkeypatch) -> None:
    monkeypatch.setattr(examination, "open_device", lambda spec: Board("@ uname\naarch64\n"))
    found = {f.check: f.status for f in examine(here(device="ssh:board"))}
    assert (found["device"], found["abi"], found["space"]) == (Status.PASS, Status.PASS, Status.WARN)


def test_a_device_lost_midway_ends_in_a_finding(here, monkeypatch) -> None:
    board = Board()

    def lost(*_, **__):
        raise DeviceError("board was lost")

    board.run = lost
    monkeypatch.setattr(examination, "open_device", lambda spec: board)
    found = [f for f in examine(here(device="ssh:board")) if f.status is Status.FAIL]
    assert {f.check for f in found} == {"abi", "space"} and exit_code(found) == 5


def test_the_exit_code_is_that_of_the_failures() -> None:
    warn, here, device = (
        Finding("x", Status.WARN, "", None, DEVICE),
        Finding("x", Status.FAIL, ""),
        Finding("x", Status.FAIL, "", None, DEVICE),
    )
    assert [exit_code(f) for f in ([], [warn], [warn, here], [here, device])] == [0, 0, 2, 5]


def test_every_check_is_listed() -> None:
    folder = Path(doctor.__file__).parent
    with_check = {p.stem for p in folder.glob("*.py") if "\ndef check(" in p.read_text()}
    listed = {c.__module__.rpartition(".")[2] for c in (*CHECKS, *doctor.DEVICE_CHECKS)}
    assert with_check == listed


def test_the_command(capsys, tmp_path: Path, monkeypatch, closed_port: int) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(closed_port))
    database_url = str(tmp_path / "m.db")
    code = main(["doctor", "--device", "nowhere", "--database", database_url, "--json"])
    assert code == 5 and '"schema": "edgewright.doctor/1"' in capsys.readouterr().out
    main(["doctor", "--database", database_url])
    assert str(closed_port) in capsys.readouterr().out
    assert main(["doctor", "--database", "/proc/cpuinfo/m.db"]) == 2
    shown = capsys.readouterr().out
    assert "cannot be made" in shown and "1 fail" in shown
