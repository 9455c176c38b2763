"""Debian's adb on a server of its own, and the faulty phone."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.faults.phone import faulty_phone


class Adb:
    """Debian's adb client with a private server; `home` holds its keys."""

    def __init__(self, program: str, home: Path) -> None:
        self.program = program
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
        }

    def __call__(self, *arguments: object, input: bytes | None = None, timeout: float = 30.0):
        command = [self.program, *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, input=input, capture_output=True, timeout=timeout
        )


@pytest.fixture(scope="session")
def adb_program():
    """Debian's adb, installed where it is missing and may be."""
    if not shutil.which("adb") and shutil.which("apt-get") and os.getuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "adb"], check=True)
    return shutil.which("adb") or pytest.skip("adb is missing: apt-get install adb")


@pytest.fixture(scope="session")
def adb(adb_program, tmp_path_factory):
    client = Adb(adb_program, tmp_path_factory.mktemp("adb"))
    yield client
    client("kill-server")


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    with faulty_phone(tmp_path_factory.mktemp("faulty")) as phone:
        yield phone
