"""Leases: one holder at a time by whatever way, free again however the holder ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from compiler.device import Completed
from compiler.errors import DeviceError
from devices.database import MeasurementDatabase
from devices.lease import identity, lease
from devices.transports.local import LocalDevice
from tests.devices.leasing_process import Named

SCRIPT = Path(__file__).with_name("leasing_process.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def holder(tmp_path: Path):
    """Start processes that want a lease; each is ended by its own `stdin`."""
    with ExitStack() as stack:

        def start(serial: str = "A1", folder: str = "one", database: str = "") -> subprocess.Popen:
            given = [serial, tmp_path / folder, *([database] if database else [])]
            process = subprocess.Popen(
                [sys.executable, SCRIPT, *given],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def said(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_a_device_in_use_is_refused_with_its_holder_and_free_after_a_kill(holder, tmp_path: Path) -> None:
    process = holder()
    assert said(process) == "held"
    words = (
        rf"'named' is in use by pid {process.pid}, `leasing_process.py A1 .*`, since 20\d\d-.*--wait SECONDS"
    )
    with (
        pytest.raises(DeviceError, match=words) as caught,
        lease(Named("A1"), wait_s=0, folder=tmp_path / "one"),
    ):
        raise AssertionError("two hold it")
    assert caught.value.exit_code == 5
    process.kill()
    process.wait()
    with lease(Named("A1"), wait_s=0, folder=tmp_path / "one"):
        pass


def test_who_waits_is_told_and_gets_it_in_the_end(holder, tmp_path: Path) -> None:
    told = []
    first = holder()
    assert said(first) == "held"

    def tell(line: str) -> None:
        told.append(line)
        first.stdin.close()  # it ends once we are known to wait

    with lease(Named("A1"), progress=tell, folder=tmp_path / "one"):
        assert first.wait(60) == 0
    (line,) = told
    assert f"in use by pid {first.pid}" in line and line.endswith("; waiting")


def test_devices_are_told_apart_by_identity_alone(holder, tmp_path: Path) -> None:
    assert said(holder("A1")) == "held"
    with lease(Named("B2", name="named"), wait_s=0, folder=tmp_path / "one"):
        pass
    with (
        pytest.raises(DeviceError),
        lease(Named("A1", name="by another way"), wait_s=0, folder=tmp_path / "one"),
    ):
        pass
    with lease(Named(""), wait_s=0, folder=tmp_path / "one"), lease(Named(""), wait_s=0):
        pass
    assert sorted(p.suffix for p in (tmp_path / "one").iterdir()) == [".lock", ".lock"]


def test_leases_nest_within_a_thread_and_exclude_other_threads(tmp_path: Path) -> None:
    device, found = Named("A1"), []

    def other() -> None:
        try:
            with lease(device, wait_s=0, folder=tmp_path):
                found.append("held")
        except DeviceError as error:
            found.append(str(error))

    def ask() -> str:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return found.pop()

    with lease(device, folder=tmp_path):
        with lease(device, wait_s=0, folder=tmp_path):
            assert "in use by another thread of this process" in ask()
        assert "in use by another thread" in ask()
    assert ask() == "held"


def test_what_a_holder_starts_does_not_keep_its_lease(holder, tmp_path: Path) -> None:
    with lease(Named("A1"), folder=tmp_path / "one"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert said(holder()) == "held"
    finally:
        child.kill()
        child.wait()


def test_an_interrupt_while_waiting_leaves_nothing_held(holder, tmp_path: Path) -> None:
    first = holder()
    assert said(first) == "held"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lease(Named("A1"), progress=interrupt, folder=tmp_path / "one"):
        pass
    first.stdin.close()
    assert first.wait(60) == 0
    assert said(holder()) == "held"


def test_a_server_keeps_hosts_apart_and_frees_what_a_killed_host_held(
    holder, postgres, tmp_path: Path
) -> None:
    url = postgres.database()
    first = holder("A1", "host one", url)
    assert said(first) == "held"
    second = holder("A1", "host two", url)
    assert f"in use by pid {first.pid} on {os.uname().nodename}, since 20" in said(second)
    with MeasurementDatabase(url) as database, lease(Named("B2"), database, wait_s=0, folder=tmp_path / "h"):
        pass
    # A file cannot tell hosts apart.
    with lease(Named("A1"), wait_s=0, folder=tmp_path / "host three"):
        pass
    first.kill()
    first.wait()
    assert said(second) == "held"
    second.stdin.close()
    assert second.wait(60) == 0
    with MeasurementDatabase(url) as database, lease(Named("A1"), database, wait_s=0, folder=tmp_path / "h"):
        pass


def test_a_password_in_the_command_is_not_told(monkeypatch, tmp_path: Path) -> None:
    url = "postgresql://me:secret@host/measurements"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/edgewright", "profile", "out", "--database", url])
    with lease(Named("A1"), folder=tmp_path):
        (text,) = [path.read_text() for path in tmp_path.iterdir()]
    assert "`edgewright profile out --database postgresql://me:***@host/measurements`" in text
    assert "secret" not in text


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = pytest.raises(DeviceError, match=r"cannot keep a lease in .*file")
    with words, lease(Named("A1"), folder=tmp_path / "file"):
        pass


def test_the_local_device_is_one_for_all_of_the_host(tmp_path: Path) -> None:
    one, other = LocalDevice(tmp_path / "a"), LocalDevice(tmp_path / "b")
    assert identity(one) == identity(other) and identity(one).startswith("host ")


def test_a_device_that_tells_no_identity_is_asked_for_its_number() -> None:
    class Reached:
        name = "x"

        def __init__(self, number: str) -> None:
            self.number = number

        def run(self, command):
            assert command[:2] == ["sh", "-c"] and "ro.serialno" in command[2]
            return Completed(0, self.number, "")

        def fingerprint(self):
            return {"machine": "m"}

    assert identity(Reached("STANDIN5555\n")) == "STANDIN5555"
    assert identity(Reached("\n")).startswith("x ") and len(identity(Reached(""))) > 10
