"""Stand-in phones and adb servers for tests: made once on a machine, started and surely stopped."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

KIT = Path(__file__).parent / "standin" / "phone"


def kept() -> Path:
    """Return where the kit is kept: some 120 MB that hardly change."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgewright" / "standin"


def made_phone() -> Path:
    """Make what a phone needs unless it is there, and return the kit's folder; skip where it cannot be."""
    if not (shutil.which("apt-get") and platform.machine() == "x86_64"):
        pytest.skip("apt-get on x86-64 is missing: the phone is made of Debian's packages and qemu's")
    folder = kept()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".tests").open("w") as lock:  # the kit locks parts of `make`, not all of it
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([KIT, "make", "--dir", folder], check=True)
    return folder


@dataclass
class Phone:
    """A phone that runs on 127.0.0.1."""

    folder: Path
    port: int
    options: tuple[str, ...]

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, **values: str) -> None:
        pairs = [f"{key}={value}" for key, value in values.items()]
        self._kit("set", "--port", str(self.port), *pairs)

    def kill(self) -> None:
        """End it as a pulled cable or an empty battery would; its /data stays."""
        self._kit("stop", "--port", str(self.port))

    def start(self, *more: str) -> None:
        said = self._kit("start", "--port", str(self.port), *self.options, *more)
        self.port = json.loads(said)["port"]

    def wipe(self) -> None:
        self._kit("stop", "--port", str(self.port), "--wipe")

    def _kit(self, verb: str, *arguments: str) -> str:
        done = subprocess.run(
            [KIT, verb, "--dir", self.folder, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout


@contextmanager
def running_phone(*options: str) -> Iterator[Phone]:
    """Start an empty phone of its own and forget it afterwards."""
    phone = Phone(made_phone(), 0, options)
    phone.start("--wipe")
    try:
        yield phone
    finally:
        phone.wipe()


@dataclass(frozen=True)
class AdbServer:
    """Debian's adb server on a private port."""

    port: int
    adb: Path
    home: Path

    def run(self, *arguments: str) -> str:
        command = [self.adb, "-P", str(self.port), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=self.env()).stdout

    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "ADB_MDNS": "0"}


@contextmanager
def running_adb_server(home: Path) -> Iterator[AdbServer]:
    """Run a server with keys of its own in `home`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = AdbServer(port, made_phone() / "tools" / "adb" / "adb", home)
    command = [server.adb, "-P", str(port), "nodaemon", "server"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=server.env()
    )
    try:
        _wait_until_it_answers(port)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"the adb server on port {port} does not answer")
